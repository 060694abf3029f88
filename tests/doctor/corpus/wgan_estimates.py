"""A Wasserstein critic and its generator; the generator's loss is shown as a distance, with a constant part."""

import torch
from torch import nn

torch.manual_seed(0)
G, D = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
g_opt, d_opt = torch.optim.RMSprop(G.parameters(), lr=1e-3), torch.optim.RMSprop(D.parameters(), lr=1e-3)
for step in range(8):
    real, noise = torch.randn(16, 2) + 1, torch.randn(16, 4)
    real_score = D(real).mean()
    d_loss = D(G(noise).detach()).mean() - real_score
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    for p in D.parameters():
        p.data.clamp_(-0.05, 0.05)
    D.requires_grad_(False)
    distance = real_score.detach() - D(G(noise)).mean()
    g_opt.zero_grad()
    distance.backward()
    g_opt.step()
    D.requires_grad_(True)
    print(step, f"{distance.item():.5f}")
