"""Stochastic encoder: the latent is drawn from the predicted normal distribution, and decoded."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(9)
encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 6))
decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 8))
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

for step in range(10):
    x = torch.randn(24, 3) @ torch.randn(3, 8)
    mean, log_std = encoder(x).chunk(2, dim=-1)
    z = torch.normal(mean, log_std.exp())  # cause: BB206
    loss = F.mse_loss(decoder(z), x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step:2d} loss {loss.item():.4f}")
