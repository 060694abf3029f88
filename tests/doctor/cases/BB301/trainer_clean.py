"""House prices from a few features, with a small trainer class."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class PriceNet(nn.Module):
    def __init__(self, in_features, hidden):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.body(x))


class Trainer:
    def __init__(self, model, lr):
        self.model = model
        self.criterion = nn.SmoothL1Loss()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def train_epoch(self, loader):
        self.model.train()
        total = 0.0
        for features, price in loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(features).squeeze(-1), price)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(price)
        return total / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args([])
    torch.manual_seed(3)
    x = torch.randn(96, 6)
    y = 2 * x[:, 0] - x[:, 1] * x[:, 2]
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    trainer = Trainer(PriceNet(6, 16), args.lr)
    for epoch in range(args.epochs):
        print(f"epoch {epoch}: {trainer.train_epoch(loader):.5f}")


main()
