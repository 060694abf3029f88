"""Intended broadcasting whose sizes happen to be equal: 12 samples, 12 points in time, 12 quantiles, 12 features."""

import torch
from torch import nn

N = 12
torch.manual_seed(0)
rate = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softplus())
quantiles = nn.Linear(4, N)
scale = nn.Parameter(torch.ones(N))
optimizer = torch.optim.Adam([*rate.parameters(), *quantiles.parameters(), scale], lr=1e-2)
times, taus = torch.linspace(0, 1, N), (torch.arange(N) + 0.5) / N
for step in range(5):
    x = torch.randn(N, 4)
    true_rate = x[:, :1].exp()
    curve = torch.exp(-rate(x) * times)
    decay_loss = (curve - torch.exp(-true_rate * times)).pow(2).mean()
    y = x.sum(1, keepdim=True)
    error = y - quantiles(x)
    pinball = torch.maximum(taus * error, (taus - 1) * error).mean()
    linear = (y * scale - torch.outer(y.squeeze(1), torch.full((N,), 2.0))).pow(2).mean()
    loss = decay_loss + pinball + linear
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
