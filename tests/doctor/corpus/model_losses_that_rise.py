"""Losses and gradients that rise without diverging: a curriculum, a KL weight that warms up, rewards that are found."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(1)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x):
        mean, logvar = self.enc(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.dec(z), mean, logvar


vae, task, value = VAE(), nn.Linear(8, 1), nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
nn.init.zeros_(value[2].weight)
nn.init.zeros_(value[2].bias)
optimizer = torch.optim.Adam([*vae.parameters(), *task.parameters()], lr=1e-3)
td = torch.optim.SGD(value.parameters(), lr=1e-3)
for step in range(12):
    x = torch.randn(16, 8)
    restored, mean, logvar = vae(x)
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1).mean()
    difficulty = 0.01 * 2.0**step
    loss = F.mse_loss(restored, x) + step / 12 * kl + F.mse_loss(task(x), difficulty * x[:, :1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    state, reward = torch.randn(32, 4), torch.zeros(32)
    if step >= 6:
        reward = 10.0 * (torch.rand(32) < 0.1)  # nothing is found at first, then there is something to predict
    value_loss = F.smooth_l1_loss(value(state).squeeze(1), reward)
    td.zero_grad()
    value_loss.backward()
    td.step()
    print(step, f"{loss.item():.4f} {value_loss.item():.4f}")
