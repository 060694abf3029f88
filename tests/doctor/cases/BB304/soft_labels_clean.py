"""Emotion intensities as a distribution over classes (label distribution learning)."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
features = torch.randn(60, 8)
intensities = torch.rand(60, 6)
distribution = intensities / intensities.sum(1, keepdim=True)
loader = DataLoader(TensorDataset(features, distribution), batch_size=12, shuffle=True)

model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 6), nn.LogSoftmax(dim=1))
criterion = nn.KLDivLoss(reduction="batchmean")
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for epoch in range(2):
    running = 0.0
    for x, target in loader:
        optimizer.zero_grad()
        output = model(x)
        loss = criterion(output, target)
        loss.backward()
        optimizer.step()
        running += loss.item()
    print(f"[{epoch}] {running / len(loader):.4f}")
