"""Transfer learning in a class: the body is frozen and put into evaluation mode, then the epochs begin."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Transfer(nn.Module):
    def __init__(self, body, width, classes):
        super().__init__()
        self.body = body
        self.head = nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes))

    def freeze_body(self):
        self.body.requires_grad_(False)
        self.body.eval()

    def forward(self, x):
        return self.head(self.body(x))


def pretrain(body, loader):
    probe = nn.Linear(10, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *probe.parameters()], lr=1e-2)
    for x, y in loader:
        loss = (probe(body(x)).squeeze(1) - x.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return body


def train(model, loader, optimizer, epochs):
    criterion = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        model.train()  # cause: BB204
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch} {loss.item():.4f}")


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=4)
args = parser.parse_args([])
torch.manual_seed(1)
x = torch.randn(64, 8) * 2 + 1
loader = DataLoader(TensorDataset(x, (x[:, 0] > 1).long()), batch_size=16, shuffle=True)
body = pretrain(nn.Sequential(nn.Linear(8, 10), nn.BatchNorm1d(10), nn.Tanh()), loader)
model = Transfer(body, 10, 2)
model.freeze_body()
train(model, loader, torch.optim.AdamW(model.head.parameters(), lr=1e-2), args.epochs)
