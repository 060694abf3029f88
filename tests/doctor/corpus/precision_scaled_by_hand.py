"""float16 that is looked after: a loss scaled by hand, limits that are scaled, a scaler that is off, healthy gradients."""

import torch
import torch.nn.functional as F
from torch import nn


def batch(n=16):
    x = torch.randn(n, 6)
    return x, (x[:, 0] > x[:, 1]).long()


def net():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.LayerNorm(24), nn.Linear(24, 2))


torch.manual_seed(1)
scale = 1024.0  # static loss scaling, as before GradScaler
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(4):
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = 1e-5 * F.cross_entropy(model(x), y)
    (loss * scale * 64).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.grad.div_(scale * 64)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print("by hand", step, f"{loss.item():.3e}")

model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
max_norm = 0.5
for step in range(4):
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    limit = max_norm * scaler.get_scale()
    nn.utils.clip_grad_norm_(model.parameters(), limit)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    print("limit scaled", step, f"{loss.item():.4f}")

model = net()  # one flag turns mixed precision off, and with it the scaler
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", enabled=False)
for step in range(4):
    x, y = batch()
    loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    print("off", step, f"{loss.item():.4f}")

model = net()  # two optimizers, of which one is unscaled and clipped and the other neither
first = torch.optim.Adam(model[0].parameters(), lr=1e-3)
second = torch.optim.Adam(model[2:].parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu")
for step in range(5):
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(first)
    nn.utils.clip_grad_norm_(model[0].parameters(), 1.0)
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    first.zero_grad()
    second.zero_grad()
    print("two", step, f"{loss.item():.4f}")

model = net()  # large gradients survive float16 without a scaler; a bias before LayerNorm has none but noise
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(5):
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print("healthy", step, f"{loss.item():.4f}")
