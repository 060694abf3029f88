"""Warm-up from 0, decay to 0, cycles, warm restarts, a group at rate 0, snapshots, and a rate cut by a plateau."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(48, 4)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8, shuffle=True)


def train(make, epochs=5, per_batch=True, plateau=False):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.02)
    schedule = make(optimizer, epochs * len(loader))
    for _ in range(epochs):
        for features, target in loader:
            optimizer.zero_grad()
            loss = F.mse_loss(model(features), target)
            loss.backward()
            optimizer.step()
            if per_batch:
                schedule.step()
        if not per_batch:
            schedule.step(loss.item()) if plateau else schedule.step()
    print(f"{loss.item():.4f} {optimizer.param_groups[0]['lr']:.2e}")


def warmup_cosine(step, total):
    return step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / (total - 4)))


train(lambda o, n: lr_scheduler.LambdaLR(o, lambda s: warmup_cosine(s, n)))
train(lambda o, n: lr_scheduler.CosineAnnealingLR(o, n))
train(lambda o, n: lr_scheduler.CosineAnnealingLR(o, 2), epochs=7, per_batch=False)
train(lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, 4))
train(lambda o, n: lr_scheduler.CyclicLR(o, 1e-3, 0.05, step_size_up=3))
train(lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n + 1))
train(lambda o, n: lr_scheduler.LambdaLR(o, [lambda s: float(s > 10), lambda s: 1.0]))
train(lambda o, n: lr_scheduler.StepLR(o, 2, 0.1), per_batch=False)
train(lambda o, n: lr_scheduler.PolynomialLR(o, n, power=2.0))
train(lambda o, n: lr_scheduler.ReduceLROnPlateau(o, patience=0), per_batch=False, plateau=True)
train(
    lambda o, n: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.01, total_iters=5), lr_scheduler.CosineAnnealingLR(o, n - 5)], [5]
    )
)
