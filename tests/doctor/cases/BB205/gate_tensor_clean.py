"""Gated fusion of two sensors; the gate of each sample is computed by a small network."""

import torch
from torch import nn

torch.manual_seed(4)


class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 10), nn.Linear(6, 10)
        self.gate = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
        self.out = nn.Linear(10, 1)

    def forward(self, a, b):
        g = self.gate(torch.cat([a, b], 1))
        return self.out(torch.tanh(g * self.left(a) + (1 - g) * self.right(b))).squeeze(1)


model = Fusion()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
for step in range(10):
    a, b = torch.randn(12, 6), torch.randn(12, 6)
    target = torch.where(a[:, 0] > 0, a[:, 1], b[:, 1])
    loss = (model(a, b) - target).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(step, f"{loss.item():.4f}")
