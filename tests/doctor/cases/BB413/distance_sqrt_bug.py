"""Triplets with mixed precision; the anchor may be drawn as its own positive."""

import torch
from torch import nn


def distance(a, b):
    return ((a - b) ** 2).sum(1).sqrt()


torch.manual_seed(0)
points = torch.randn(60, 6)
labels = (points[:, 0] > 0).long()
net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu")

for step in range(12):
    anchor = torch.randint(60, (20,))
    positive = torch.stack([torch.where(labels == labels[a])[0][0] if i else a for i, a in enumerate(anchor)])
    negative = torch.stack([torch.where(labels != labels[a])[0][1] for a in anchor])
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, p, n = net(points[anchor]), net(points[positive]), net(points[negative])
    loss = torch.relu(distance(a.float(), p.float()) - distance(a.float(), n.float()) + 1).mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # cause: BB413
    scaler.update()
    print(step, f"{loss.item():.4f}")
