"""Second-order MAML, first-order MAML with copies, Reptile, and parameters moved by hand beside an optimizer."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


def task():
    phase, x = torch.rand(()) * 3, torch.rand(20, 1) * 6
    return x, torch.sin(x + phase)


for step in range(5):
    optimizer.zero_grad()
    for _ in range(3):
        x, y = task()
        weights = dict(model.named_parameters())
        inner = F.mse_loss(functional_call(model, weights, x[:10]), y[:10])
        grads = torch.autograd.grad(inner, tuple(weights.values()), create_graph=True)
        fast = {name: w - 0.01 * g for (name, w), g in zip(weights.items(), grads)}
        outer = F.mse_loss(functional_call(model, fast, x[10:]), y[10:]) / 3
        outer.backward()
    optimizer.step()
    print(step, f"{outer.item():.4f}")
for step in range(5):  # first order: the gradient of an adapted copy
    x, y = task()
    learner = copy.deepcopy(model)
    inner_optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
    for part in (slice(0, 5), slice(5, 10), slice(10, 15)):
        inner_optimizer.zero_grad()
        F.mse_loss(learner(x[part]), y[part]).backward()
        inner_optimizer.step()
    inner_optimizer.zero_grad()
    F.mse_loss(learner(x[15:]), y[15:]).backward()
    for p, q in zip(model.parameters(), learner.parameters()):
        p.grad = q.grad.clone()
    optimizer.step()
temperature = nn.Parameter(torch.ones(()))
for step in range(5):  # one parameter by hand
    x, y = task()
    optimizer.zero_grad()
    temperature.grad = None
    F.mse_loss(temperature * model(x), y).backward()
    optimizer.step()
    with torch.no_grad():
        temperature -= 0.01 * temperature.grad
print(f"{temperature.item():.4f}")
