"""Two moons with a small network."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--lr", type=float, default=0.05)
args = parser.parse_args([])

torch.manual_seed(0)
t = torch.rand(128) * 3.14
y = torch.randint(2, (128,))
x = torch.stack([t.cos() + y, t.sin() * (1 - 2 * y) + 0.5 * y], 1) + 0.1 * torch.randn(128, 2)
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)

for epoch in range(args.epochs):
    correct = 0
    for points, labels in loader:
        logits = model(points)
        loss = criterion(logits, labels)
        loss.backward()  # cause: BB401
        optimizer.step()
        correct += (logits.argmax(1) == labels).sum().item()
    print(f"epoch {epoch}: accuracy {correct / len(x):.3f}")
