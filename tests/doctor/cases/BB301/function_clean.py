"""Regression of a noisy line, the loss written by hand."""

import torch
from torch import nn


def train(model, inputs, targets, steps=30):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        predicted = model(inputs).squeeze(1)
        loss = ((predicted - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


torch.manual_seed(0)
inputs = torch.randn(64, 4)
targets = inputs @ torch.tensor([1.0, -2.0, 0.5, 3.0]) + 0.1 * torch.randn(64)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
print(f"loss {train(model, inputs, targets):.6f}")
