"""GANs: n critic steps, one zero_grad for both at the top, discriminator gradients thrown away, frozen in turns."""

import torch
import torch.nn.functional as F
from torch import nn


def networks():
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)), nn.Sequential(
        nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1)
    )


def update(loss, optimizer):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


torch.manual_seed(0)
G, D = networks()
g_opt, d_opt = torch.optim.Adam(G.parameters(), lr=1e-3), torch.optim.Adam(D.parameters(), lr=1e-3)
for step in range(4):  # several critic steps per generator step, through one helper; fakes not detached
    for _ in range(3):
        fake = G(torch.randn(8, 3))
        update(F.softplus(-D(torch.randn(8, 2))).mean() + F.softplus(D(fake)).mean(), d_opt)
    update(F.softplus(-D(G(torch.randn(8, 3)))).mean(), g_opt)
    print(step, f"{D(fake).mean().item():.4f}")
G, D = networks()
g_opt, d_opt = torch.optim.Adam(G.parameters(), lr=1e-3), torch.optim.Adam(D.parameters(), lr=1e-3)
for step in range(6):  # both cleared at the top
    g_opt.zero_grad()
    d_opt.zero_grad()
    fake = G(torch.randn(8, 3))
    d_loss = F.softplus(-D(torch.randn(8, 2))).mean() + F.softplus(D(fake.detach())).mean()
    d_loss.backward()
    d_opt.step()
    D.requires_grad_(False)
    g_loss = F.softplus(-D(fake)).mean()
    g_loss.backward()
    g_opt.step()
    D.requires_grad_(True)
    print(step, f"{d_loss.item():.4f} {g_loss.item():.4f}")
G, D = networks()
g_opt, d_opt = torch.optim.Adam(G.parameters(), lr=1e-3), torch.optim.Adam(D.parameters(), lr=1e-3)
for step in range(6):  # generator first, one backward for both, cleared after each step
    fake = G(torch.randn(8, 3))
    F.softplus(-D(fake)).mean().backward()
    g_opt.step()
    g_opt.zero_grad()
    for p in D.parameters():
        p.grad = None
    F.softplus(-D(torch.randn(8, 2))).mean().backward()
    F.softplus(D(fake.detach())).mean().backward()
    d_opt.step()
    d_opt.zero_grad()
