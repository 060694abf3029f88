"""Digits of noise; StepLR in the inner loop."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=7)
parser.add_argument("--step-size", type=int, default=2, help="epochs between two decays")
args = parser.parse_args([])

torch.manual_seed(0)
centers = torch.randn(5, 12)
y = torch.randint(5, (112,))
x = centers[y] + 0.5 * torch.randn(112, 12)
loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=args.step_size, gamma=0.1)
criterion = nn.CrossEntropyLoss()

for epoch in range(args.epochs):
    for data, target in loader:
        optimizer.zero_grad()
        loss = criterion(model(data), target)
        loss.backward()
        optimizer.step()
        scheduler.step()  # cause: BB406
    print(f"epoch {epoch} loss {loss.item():.4f} lr {scheduler.get_last_lr()[0]:g}")
