"""A hand-written SGD with weight decay on a ridge problem."""

import torch
from torch import nn
from torch.optim import Optimizer


class PlainSGD(Optimizer):
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):  # cause: BB414
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad + group["weight_decay"] * p
                p = p - group["lr"] * update


torch.manual_seed(0)
x, true = torch.randn(200, 6), torch.randn(6, 1)
model = nn.Linear(6, 1)
optimizer = PlainSGD(model.parameters(), lr=0.05, weight_decay=1e-3)
for step in range(12):
    batch = torch.randint(200, (32,))
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x[batch]), x[batch] @ true)
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
