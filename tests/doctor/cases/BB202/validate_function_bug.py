"""Digits-like classification with dropout; a function measures the accuracy after every epoch."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=16)
args = parser.parse_args([])
torch.manual_seed(0)

x = torch.randn(96, 12)
y = (x[:, :4].sum(1) > 0).long()
x_train, y_train, x_val, y_val = x[:64], y[:64], x[64:], y[64:]


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()  # cause: BB202
    return (model(x).argmax(1) == y).float().mean().item()


model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
model.train()
for epoch in range(args.epochs):
    order = torch.randperm(64)
    for start in range(0, 64, args.batch_size):
        rows = order[start : start + args.batch_size]
        loss = F.cross_entropy(model(x_train[rows]), y_train[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.4f} val acc {accuracy(model, x_val, y_val):.3f}")
