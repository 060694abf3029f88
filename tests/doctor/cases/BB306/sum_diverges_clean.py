"""Regression with a summed loss."""

import torch
from torch import nn


def fit(model, x, y, epochs, lr):
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"{epoch}: {loss.item():.4g}")


torch.manual_seed(0)
x = torch.randn(200, 3)
y = x @ torch.randn(3, 1) + 0.1 * torch.randn(200, 1)
fit(nn.Linear(3, 1), x, y, epochs=12, lr=0.05)
