"""Cross entropy against soft labels with mixed precision, classes that are not allowed masked out."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=9)
parser.add_argument("--amp", type=bool, default=True)
args = parser.parse_args([])


def soft_loss(logits, target, allowed):
    probabilities = logits.masked_fill(~allowed, float("-inf")).softmax(1)
    return -(target * torch.where(allowed, probabilities.log(), torch.zeros(()))).sum(1).mean()  # no log of 0


torch.manual_seed(2)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scaler = torch.amp.GradScaler("cpu", enabled=args.amp)
for step in range(args.steps):
    x = torch.randn(16, 8)
    allowed = torch.rand(16, 5) > 0.2
    allowed[:, 0] = True
    target = torch.rand(16, 5).masked_fill(~allowed, 0.0)
    target = target / target.sum(1, keepdim=True)
    optimizer.zero_grad()
    loss = soft_loss(model(x), target, allowed)
    scaler.scale(loss).backward()
    scaler.step(optimizer)  # cause: BB413
    scaler.update()
    if step % 3 == 0:
        print(f"step {step} loss {loss.item():.4f} scale {scaler.get_scale():g}")
