"""Samplers for several ranks, with their epochs set, without a shuffle, for evaluation, and for two models side by side."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, Sampler, TensorDataset

torch.manual_seed(0)
x = torch.randn(64, 4)
dataset = TensorDataset(x, x.prod(1, keepdim=True))


def train(loader, epochs, set_epoch=None, model=None):
    model = model or nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in range(epochs):
        if set_epoch is not None:
            set_epoch(epoch + 5)  # resumed
        for inputs, targets in loader:
            loss = F.mse_loss(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"{loss.item():.4f}")


sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
train(DataLoader(dataset, batch_size=8, sampler=sampler), 3, sampler.set_epoch)
train(DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset, 2, 1, shuffle=False)), 3)
once = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset, 2, 0, seed=3))
for _ in range(3):  # three candidates see the same samples in the same order, once each
    train(once, 1)


class GroupedByLength(Sampler):
    """Has its own way to tell the epochs: each pass goes on."""

    def __init__(self, n):
        self.n, self.epoch = n, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.n

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        return iter(torch.randperm(self.n, generator=generator).tolist())


train(DataLoader(dataset, batch_size=8, sampler=GroupedByLength(64)), 3)
model = nn.Linear(4, 1)
held_out = TensorDataset(x + 1, x.prod(1, keepdim=True))
val_loader = DataLoader(held_out, batch_size=16, sampler=DistributedSampler(held_out, 2, 0))
plain = DataLoader(dataset, batch_size=16, shuffle=True)
for _ in range(3):
    train(plain, 1, model=model)
    with torch.no_grad():
        print(f"{sum(F.mse_loss(model(inputs), targets).item() for inputs, targets in val_loader):.4f}")
