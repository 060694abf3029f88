"""Weights in bfloat16 that do learn: large rates, warm-ups, float32 copies, compensated sums, stochastic rounding."""

import torch
import torch.nn.functional as F
from torch import nn


def net(dtype=torch.bfloat16):
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).to(dtype)


def batch(n=16, dtype=torch.bfloat16):
    x = torch.randn(n, 6)
    return x.to(dtype), (x[:, 0] > x[:, 1]).long()


def train(name, model, optimizer, schedule=None, steps=6):
    for step in range(steps):
        x, y = batch(dtype=next(model.parameters()).dtype)
        loss = F.cross_entropy(model(x).float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
    print(name, f"{loss.item():.4f}")


class MasterSGD(torch.optim.Optimizer):
    """Keeps weights in float32 and copies them to the model's."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                master = self.state[p].setdefault("master", p.float().clone())
                master.sub_(p.grad.float(), alpha=group["lr"])
                p.copy_(master)


class StochasticSGD(torch.optim.SGD):
    """Rounds up or down at random, so that small updates count on average."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                wide = p.float().sub_(p.grad.float(), alpha=group["lr"])
                bits = wide.view(torch.int32) + torch.randint_like(wide, 1 << 16, dtype=torch.int32)
                p.copy_((bits & -65536).view(torch.float32))


torch.manual_seed(2)
model = net()
train("large rate", model, torch.optim.AdamW(model.parameters(), lr=3e-3))
model = net()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 2000))
train("warm-up", model, optimizer, warmup)
model = net()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
train(
    "one cycle", model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=40, div_factor=5000)
)
model = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
for step in range(12):  # warm-up by hand
    for group in optimizer.param_groups:
        group["lr"] = 1e-5 * 4**step if step < 9 else 0.1
    x, y = batch()
    loss = F.cross_entropy(model(x).float(), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("by hand", f"{loss.item():.4f}")
model = net()
train("masters", model, MasterSGD(model.parameters(), lr=1e-4))
model = net()
train("stochastic", model, StochasticSGD(model.parameters(), lr=1e-4))

model = net()  # float32 masters beside the model, stepped by an optimizer of PyTorch's
masters = [nn.Parameter(p.detach().float()) for p in model.parameters()]
optimizer = torch.optim.Adam(masters, lr=1e-5)
for step in range(5):
    x, y = batch()
    loss = F.cross_entropy(model(x).float(), y)
    model.zero_grad()
    loss.backward()
    for master, p in zip(masters, model.parameters()):
        master.grad = p.grad.float()
    optimizer.step()
    with torch.no_grad():
        for master, p in zip(masters, model.parameters()):
            p.copy_(master)
print("beside", f"{loss.item():.4f}")

backbone, head = net().requires_grad_(False), nn.Linear(2, 2)  # frozen in bfloat16, a head in float32
optimizer = torch.optim.Adam(head.parameters(), lr=1e-5)
for step in range(4):
    x, y = batch()
    loss = F.cross_entropy(head(backbone(x).float()), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("head", f"{loss.item():.4f}")
