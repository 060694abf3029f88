"""Evaluates with the averaged weights every few steps, then goes on training with the raw ones."""

import copy

import torch
from torch import nn

torch.manual_seed(9)
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4))
ema = copy.deepcopy(model).requires_grad_(False)
opt = torch.optim.AdamW(model.parameters(), lr=5e-3)
x_val = torch.randn(64, 10)
y_val = x_val[:, :4].argmax(-1)

for step in range(1, 31):
    x = torch.randn(32, 10)
    loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(-1))
    opt.zero_grad()
    loss.backward()
    opt.step()
    with torch.no_grad():
        for averaged, p in zip(ema.parameters(), model.parameters()):
            averaged.lerp_(p, 0.1)
    if step % 10 == 0:
        backup = model.state_dict()  # cause: BB702
        model.load_state_dict(ema.state_dict())
        with torch.no_grad():
            print(step, nn.functional.cross_entropy(model(x_val), y_val).item())
        model.load_state_dict(backup)
