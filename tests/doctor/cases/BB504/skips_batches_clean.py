"""Heteroscedastic regression: the net gives a mean and a variance. Bad batches are skipped."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--lr", type=float, default=1e-2)
args = parser.parse_args([])


class MeanAndVariance(nn.Module):
    def __init__(self, features=5):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(features, 16), nn.Tanh())
        self.mean, self.variance = nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h).squeeze(1), nn.functional.softplus(self.variance(h).squeeze(1)) + 1e-4


def gaussian_nll(mean, variance, target):
    return 0.5 * (torch.log(variance) + (target - mean) ** 2 / variance).mean()


torch.manual_seed(0)
x = torch.randn(96, 5)
y = x[:, 0] - x[:, 1] + 0.1 * torch.randn(96)
loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
model = MeanAndVariance()
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
for epoch in range(args.epochs):
    losses = []
    for inputs, targets in loader:
        loss = gaussian_nll(*model(inputs), targets)
        if torch.isnan(loss):
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch}: {len(losses)} batches, loss {sum(losses) / max(len(losses), 1):.4f}")
