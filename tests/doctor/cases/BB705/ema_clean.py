"""Trains with an exponential moving average of the weights, validates the average, and writes the best epoch to disk."""

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class ModelEMA:
    def __init__(self, model, decay=0.9):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for averaged, p in zip(self.module.parameters(), model.parameters()):
            averaged.mul_(self.decay).add_(p, alpha=1 - self.decay)


@torch.no_grad()
def validate(model, x, y):
    return (model(x).argmax(1) == y).float().mean().item()


torch.manual_seed(31)
out = Path(tempfile.mkdtemp())
model = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 4))
ema = ModelEMA(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
x_val = torch.randn(64, 12)
y_val = x_val[:, :4].argmax(1)
best = 0.0
for epoch in range(4):
    model.train()
    for _ in range(6):
        x = torch.randn(32, 12)
        loss = F.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
    accuracy = validate(ema.module, x_val, y_val)
    print(f"epoch {epoch}: {accuracy:.3f}")
    if accuracy > best:
        best = accuracy
        torch.save({"model": ema.module.state_dict(), "epoch": epoch, "accuracy": accuracy}, out / "best.pt")
