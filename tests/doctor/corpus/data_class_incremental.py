"""Continual learning: the classes arrive one task after the other, several epochs each, and forgetting is measured."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
centers = torch.randn(6, 8) * 2
labels = torch.arange(6).repeat_interleave(20)
inputs = centers[labels] + 0.3 * torch.randn(120, 8)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
tests = [TensorDataset(centers[c : c + 2] + 0.1, torch.tensor([c, c + 1])) for c in (0, 2, 4)]
for task in range(3):
    chosen = (labels // 2) == task
    loader = DataLoader(TensorDataset(inputs[chosen], labels[chosen]), batch_size=8)
    for _ in range(2):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        print(task, [(model(x).argmax(1) == y).float().mean().item() for t in tests for x, y in DataLoader(t, 2)])
# The same as one stream, in the order of the classes, seen once:
for x, y in DataLoader(TensorDataset(inputs, labels), batch_size=10):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{loss.item():.4f}")
