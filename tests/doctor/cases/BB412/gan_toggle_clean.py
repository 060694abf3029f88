"""A GAN on a ring of points; the discriminator is frozen while the generator learns."""

import torch
from torch import nn

bce = nn.BCEWithLogitsLoss()


def set_requires_grad(net, flag):
    for p in net.parameters():
        p.requires_grad = flag


torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
D = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))

for it in range(8):
    angle = torch.rand(32) * 6.28
    real = torch.stack([angle.cos(), angle.sin()], 1)
    fake = G(torch.randn(32, 4))

    opt_d.zero_grad()
    d_loss = bce(D(real), torch.ones(32, 1)) + bce(D(fake), torch.zeros(32, 1))
    d_loss.backward(retain_graph=True)
    opt_d.step()

    set_requires_grad(D, False)
    opt_g.zero_grad()
    g_loss = bce(D(fake), torch.ones(32, 1))
    g_loss.backward()
    opt_g.step()
    set_requires_grad(D, True)
    print(f"{it} d {d_loss.item():.4f} g {g_loss.item():.4f}")
