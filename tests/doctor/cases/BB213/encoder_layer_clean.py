"""Transformer regression on sets of measurements; no data loader, batches are drawn by hand."""

import argparse

import torch
from torch import nn


class SetRegressor(nn.Module):
    def __init__(self, features, dim, layers):
        super().__init__()
        self.embed = nn.Linear(features, dim)
        layer = nn.TransformerEncoderLayer(d_model=dim, nhead=2, dim_feedforward=2 * dim, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(dim, 1)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(dim=1)).squeeze(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=12)
    args = parser.parse_args([])
    torch.manual_seed(1)
    x = torch.randn(100, 7, 4)
    y = x[:, :, 0].amax(1)
    model = SetRegressor(4, 16, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(args.steps):
        rows = torch.randint(100, (args.batch,))
        loss = (model(x[rows]) - y[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, f"{loss.item():.4f}")


main()
