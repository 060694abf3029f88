"""Sign updates computed in double precision, with momentum."""

import argparse

import torch
from torch import nn


class Lion64(torch.optim.Optimizer):
    """Lion with its arithmetic in float64."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            one, two = group["betas"]
            for p in filter(lambda p: p.grad is not None, group["params"]):
                state = self.state[p]
                if not state:
                    state["average"] = torch.zeros_like(p, dtype=torch.float64)
                weight, grad = p.double(), p.grad.double()
                update = (one * state["average"] + (1 - one) * grad).sign()
                weight.sub_(group["lr"] * update)
                p.copy_(weight)
                state["average"].mul_(two).add_(grad, alpha=1 - two)
        return loss


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=18)
args = parser.parse_args([])
torch.manual_seed(2)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = Lion64(model.parameters(), lr=3e-3)
for step in range(args.steps):
    x = torch.randn(24, 4)
    loss = nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 6 == 0:
        print(step, f"{loss.item():.4f}")
