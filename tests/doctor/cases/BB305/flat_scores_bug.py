"""Discriminator and generator on a ring of points."""

import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
g_opt = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
d_opt = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))


def adversarial(scores, real):
    labels = torch.full_like(scores, float(real))
    return F.cross_entropy(scores, labels)  # cause: BB305


for it in range(6):
    angle = 2 * math.pi * torch.rand(16)
    real = torch.stack([angle.cos(), angle.sin()], 1)
    fake = G(torch.randn(16, 4))
    d_loss = adversarial(D(real).squeeze(1), True) + adversarial(D(fake.detach()).squeeze(1), False)
    d_opt.zero_grad()
    d_loss.backward()
    d_opt.step()
    g_loss = adversarial(D(fake).squeeze(1), True)
    g_opt.zero_grad()
    g_loss.backward()
    g_opt.step()
    print(f"{it}: d {d_loss.item():.4f} g {g_loss.item():.4f}")
