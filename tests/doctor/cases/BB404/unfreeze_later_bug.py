"""Two stages: the head alone, then the whole network."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.backbone(x))


def train_epoch(model, loader, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


parser = argparse.ArgumentParser()
parser.add_argument("--freeze-epochs", type=int, default=1)
parser.add_argument("--epochs", type=int, default=3)
args = parser.parse_args([])

torch.manual_seed(2)
x = torch.randn(64, 8)
loader = DataLoader(TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long()), batch_size=16, shuffle=True)
model = Net()
for p in model.backbone.parameters():
    p.requires_grad = False
optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, model.parameters()), lr=1e-2)  # cause: BB404
for epoch in range(args.epochs):
    if epoch == args.freeze_epochs:
        model.backbone.requires_grad_(True)
        print("unfreezing the backbone")
    print(f"epoch {epoch}: {train_epoch(model, loader, optimizer):.4f}")
