"""A scaler that starts too high, a NaN now and then, clipping of a part, by value, and to infinity as a measure."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=3)
for step in range(16):
    x = torch.randn(8, 4)
    loss = 1e3 * F.cross_entropy(model(x), (x[:, 0] > 0).long())
    if step % 6 == 5:
        loss = loss * float("nan")
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    print(step, f"{loss.item():.3f} {scaler.get_scale():g}")
for step in range(5):
    x = torch.randn(8, 4)
    optimizer.zero_grad(set_to_none=False)
    F.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
    nn.utils.clip_grad_value_(model[2].parameters(), 0.1)
    optimizer.step()
    norm = nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    print(step, f"{norm.item():.4f}")
