"""The optimizer steps in a hook of each gradient, so that no gradient outlives backward; and one that is never needed."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
probe_only = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):  # how large are gradients at the start
    probe_only.zero_grad()
    x = torch.randn(8, 4)
    F.mse_loss(model(x), x[:, :1]).backward()
    print(f"{model[0].weight.grad.norm().item():.4f}")
probe_only.zero_grad()
optimizers = {p: torch.optim.Adam([p], lr=1e-2) for p in model.parameters()}


def step_and_clear(p):
    optimizers[p].step()
    optimizers[p].zero_grad()


for p in model.parameters():
    p.register_post_accumulate_grad_hook(step_and_clear)
for step in range(8):
    x = torch.randn(8, 4)
    loss = F.mse_loss(model(x), x[:, :1])
    loss.backward()
    print(step, f"{loss.item():.4f}")
