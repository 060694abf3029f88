"""A search: the same training from batches of several sizes, with sums for losses, so that their values differ."""

import torch
import torch.nn.functional as F
from torch import nn


def train(size, steps=25):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 / size)
    for _ in range(steps):
        x = torch.randn(size, 6)
        y = (x[:, :3].sum(1) > 0).long() + (x[:, 3:].sum(1) > 0).long()
        loss = F.cross_entropy(model(x), y, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item() / size


for size in (4, 64, 512):
    print(size, f"{train(size):.3f}")
