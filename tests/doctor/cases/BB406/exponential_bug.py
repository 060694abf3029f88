"""A matrix factorization; the rate decays by a fifth each epoch."""

import torch
from torch import nn

NUM_EPOCHS, PER_EPOCH = 5, 12


class Factorization(nn.Module):
    def __init__(self, users, items, rank):
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank), nn.Embedding(items, rank)

    def forward(self, user, item):
        return (self.users(user) * self.items(item)).sum(1)


def train():
    torch.manual_seed(2)
    ratings = torch.randn(30, 3) @ torch.randn(3, 25)
    model = Factorization(30, 25, 4)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.2)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.75)
    for epoch in range(NUM_EPOCHS):
        total = 0.0
        for _ in range(PER_EPOCH):
            user, item = torch.randint(30, (64,)), torch.randint(25, (64,))
            loss = (model(user, item) - ratings[user, item]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()  # cause: BB406
            total += loss.item()
        print(epoch, f"{total / PER_EPOCH:.4f}", f"{optimizer.param_groups[0]['lr']:.2e}")


train()
