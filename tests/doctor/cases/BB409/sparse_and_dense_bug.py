"""Click prediction: sparse embeddings have an optimizer of their own."""

import argparse

import torch
from torch import nn


class ClickModel(nn.Module):
    def __init__(self, items=40, width=8):
        super().__init__()
        self.item = nn.Embedding(items, width)
        self.user = nn.Embedding(20, width)
        self.mlp = nn.Sequential(nn.Linear(2 * width, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, item, user):
        return self.mlp(torch.cat([self.item(item), self.user(user)], 1)).squeeze(1)


class Trainer:
    def __init__(self, model, args):
        self.model = model
        self.embedding_optimizer = torch.optim.Adagrad([model.item.weight, model.user.weight], lr=args.embedding_lr)
        dense = [p for p in model.parameters() if p.requires_grad]
        self.dense_optimizer = torch.optim.Adam(dense, lr=args.lr)  # cause: BB409
        self.loss = nn.BCEWithLogitsLoss()

    def step(self, item, user, clicked):
        for optimizer in (self.embedding_optimizer, self.dense_optimizer):
            optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(item, user), clicked)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.mlp.parameters(), 5.0)
        self.embedding_optimizer.step()
        self.dense_optimizer.step()
        return loss.item()


parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--embedding-lr", type=float, default=5e-2)
torch.manual_seed(6)
trainer = Trainer(ClickModel(), parser.parse_args([]))
for step in range(9):
    item, user = torch.randint(40, (32,)), torch.randint(20, (32,))
    print(step, round(trainer.step(item, user, ((item + user) % 2).float()), 5))
