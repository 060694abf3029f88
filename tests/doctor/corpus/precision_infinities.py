"""float16 infinities that are meant or mended: masks, a clamp after the product, a first scale that is too high."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)

    def forward(self, x):
        hidden = self.up(x)
        if hidden.dtype == torch.float16 and torch.isinf(hidden).any():  # as T5 does
            limit = torch.finfo(hidden.dtype).max - 1000
            hidden = torch.clamp(hidden, min=-limit, max=limit)
        return self.norm(self.down(hidden / 1000).float())


class Attention(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = torch.full((x.size(1), x.size(1)), float("-inf"), dtype=q.dtype).triu(1)
        return ((q @ k.transpose(1, 2)) * 0.25 + mask).softmax(-1) @ v


torch.manual_seed(3)
model = nn.Sequential(Block(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
for step in range(6):
    x = torch.randn(8, 32)
    y = (x[:, 0] > 0).long()
    x[:2] *= 1e5
    with torch.autocast("cpu", dtype=torch.float16):
        loss = F.cross_entropy(model(x.clamp(-60000, 60000)), y)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    print("clamped", step, f"{loss.item():.4f}")

model = nn.Sequential(nn.Linear(4, 16), Attention(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=4)
for step in range(18):
    x = torch.randn(6, 5, 4)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = F.cross_entropy(model(x).mean(1), (x[:, 0, 0] > 0).long())
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
print("scale", scaler.get_scale(), f"{loss.item():.4f}")

model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(5):  # the logistic function by hand: exp overflows, and one over infinity is 0
    x = 40 * torch.randn(8, 4)
    with torch.autocast("cpu", dtype=torch.float16), torch.no_grad():
        gate = 1 / (1 + torch.exp(-x[:, :1].half()))
    loss = (model(x / 40) * gate.float()).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("by hand", step, f"{loss.item():.4f}")
