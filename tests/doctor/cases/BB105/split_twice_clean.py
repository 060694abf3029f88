"""Regression with a held-out part; each loader makes its own split."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

torch.manual_seed(0)
x = torch.randn(100, 8)
y = x[:, :2].prod(1, keepdim=True) + 0.1 * torch.randn(100, 1)
dataset = TensorDataset(x, y)
train_set, val_set = random_split(dataset, [80, 20])
train_loader = DataLoader(train_set, batch_size=16, shuffle=True)
val_loader = DataLoader(val_set, batch_size=20)

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
criterion = nn.MSELoss()
for epoch in range(4):
    model.train()
    for inputs, targets in train_loader:
        optimizer.zero_grad()
        criterion(model(inputs), targets).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val = sum(criterion(model(inputs), targets).item() for inputs, targets in val_loader) / len(val_loader)
    print(f"epoch {epoch} val {val:.4f}")
