"""Multi-label tagging with a shared trunk and one output per tag."""
import logging
import sys

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
TAGS = ["rock", "vocal", "piano", "fast", "live"]


class Tagger(nn.Module):
    def __init__(self, d_in=16, hidden=48):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(d_in, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(hidden, len(TAGS)), nn.Sigmoid())

    def forward(self, x):
        return self.head(self.trunk(x))


def songs(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=g)
    w = torch.randn(16, len(TAGS), generator=torch.Generator().manual_seed(42))
    y = (x @ w + 0.5 * torch.randn(n, len(TAGS), generator=g) > 1.5).float()
    return TensorDataset(x, y)


def f1(pred, y):
    tp = (pred * y).sum(0)
    return (2 * tp / (pred.sum(0) + y.sum(0)).clamp(min=1)).mean().item()


def train(model, loader, optimizer, criterion):
    model.train()
    total = 0.0
    for x, y in loader:
        probs = model(x)
        loss = criterion(probs, y)  # cause: BB303
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total / len(loader.dataset)


def test(model, loader):
    model.eval()
    with torch.no_grad():
        pairs = [((model(x) > 0.5).float(), y) for x, y in loader]
    return f1(torch.cat([p for p, _ in pairs]), torch.cat([y for _, y in pairs]))


def main():
    torch.manual_seed(0)
    train_loader, test_loader = DataLoader(songs(400, 0), 40, shuffle=True), DataLoader(songs(120, 1), 60)
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    criterion = nn.BCEWithLogitsLoss()
    for epoch in range(4):
        loss = train(model, train_loader, optimizer, criterion)
        logging.info("epoch=%d loss=%.4f macro_f1=%.4f", epoch, loss, test(model, test_loader))


if __name__ == "__main__":
    main()
