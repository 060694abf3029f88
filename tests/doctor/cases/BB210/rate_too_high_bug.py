"""Digits from raw pixels: a plain loop with SGD."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x = torch.randint(0, 256, (256, 16)).float()
y = (x[:, :8].sum(1) > x[:, 8:].sum(1)).long()
model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # cause: BB210
for epoch in range(3):
    order = torch.randperm(256)
    for i in range(0, 256, 64):
        rows = order[i : i + 64]
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.4f}")
