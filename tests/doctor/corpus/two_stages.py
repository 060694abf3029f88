"""A critic trained first and frozen for good, a model that grows by add_param_group, and a new optimizer for each stage."""

import torch
import torch.nn.functional as F
from torch import nn


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


torch.manual_seed(0)
judge, generator = nn.Linear(4, 1), nn.Linear(2, 4)
optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
for _ in range(4):
    x = torch.randn(8, 4)
    optimizer.zero_grad()
    F.mse_loss(judge(x), x[:, :1]).backward()
    optimizer.step()
judge.requires_grad_(False)
optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
for _ in range(4):
    optimizer.zero_grad()
    (-judge(generator(torch.randn(8, 2)))).mean().backward()
    optimizer.step()
model = Growing()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(9):
    if step in (3, 6):
        model.layers.append(nn.Linear(4, 4))
        optimizer.add_param_group({"params": model.layers[-1].parameters(), "lr": 1e-2})
    x = torch.randn(8, 4)
    loss = F.mse_loss(model(x), x.flip(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{loss.item():.4f}")
model.layers[0].requires_grad_(False)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
for step in range(4):
    x = torch.randn(8, 4)
    loss = F.mse_loss(model(x), x.flip(1))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
print(f"{loss.item():.4f}")
