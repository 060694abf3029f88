"""Optimizers that do not move a parameter in every step: gathered gradients, Rprop, projection, low precision, a minimum."""

import torch
import torch.nn.functional as F
from torch import nn


class Gathered(torch.optim.Optimizer):
    """SGD that moves in every eighth step, with the mean of the gradients."""

    def __init__(self, params, lr, every=8):
        super().__init__(params, {"lr": lr})
        self.every, self.calls = every, 0

    @torch.no_grad()
    def step(self, closure=None):
        self.calls += 1
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.add_(p.grad, alpha=1 / self.every)
                if self.calls % self.every == 0:
                    p.add_(mean, alpha=-group["lr"])
                    mean.zero_()


def train(model, optimizer, steps=14, dtype=torch.float32, target=lambda x: x[:, :1]):
    for _ in range(steps):
        x = torch.randn(8, 4, dtype=dtype)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target(x))
        loss.backward()
        optimizer.step()
    print(f"{loss.item():.5f}")


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
train(model, Gathered(model.parameters(), lr=0.1))
train(model, torch.optim.Rprop(model.parameters(), lr=1e-2))
half = nn.Linear(4, 1, dtype=torch.bfloat16)
train(half, torch.optim.SGD(half.parameters(), lr=1e-5), 6, torch.bfloat16)
best = nn.Linear(4, 1)
there = best.weight.detach().clone(), best.bias.detach().clone()
train(best, torch.optim.Adam(best.parameters(), lr=1e-3), target=lambda x: F.linear(x, *there))
weights = nn.Parameter(torch.zeros(5))
optimizer = torch.optim.SGD([weights], lr=0.1)
for _ in range(6):  # non-negative weights at their bound
    optimizer.zero_grad()
    weights.sum().backward()
    optimizer.step()
    with torch.no_grad():
        weights.clamp_(min=0)
