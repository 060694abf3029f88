"""Frozen by choice: a backbone with an optimizer of its own until it is unfrozen, and a layer with a flag of that name."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Features(nn.Module):
    def __init__(self, requires_grad=False):
        super().__init__()
        self.requires_grad = requires_grad
        self.net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12))
        for p in self.net.parameters():
            p.requires_grad = requires_grad

    def forward(self, x):
        return self.net(x)


features, head = Features(), nn.Linear(12, 3)
slow = torch.optim.SGD(features.parameters(), lr=1e-4)
fast = torch.optim.Adam(head.parameters(), lr=1e-2)
for step in range(10):
    if step == 6:
        features.requires_grad_(True)
        features.requires_grad = True
    x = torch.randn(24, 8)
    loss = F.cross_entropy(head(features(x)), x[:, :3].argmax(1))
    slow.zero_grad()
    fast.zero_grad()
    loss.backward()
    slow.step()
    fast.step()
    print(step, f"{loss.item():.4f}")
