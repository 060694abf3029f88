"""Test-time statistics on purpose (AdaBN), and a discriminator with BatchNorm that is frozen in the generator's turn."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(1)


def set_requires_grad(net, flag):
    for p in net.parameters():
        p.requires_grad = flag


source = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
for _ in range(5):
    source(torch.randn(32, 5) + 1)
# AdaBN: the weights stay, the statistics adapt to the new domain
source.requires_grad_(False)
head = nn.Linear(8, 2)
generator = nn.Sequential(nn.Linear(3, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
critic = nn.Sequential(nn.Linear(2, 12), nn.BatchNorm1d(12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
opt_head = torch.optim.SGD(head.parameters(), lr=0.1)
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-3)
for step in range(6):
    x = torch.randn(32, 5)
    loss = F.cross_entropy(head(source(x)), (x[:, 0] > 0).long())
    opt_head.zero_grad()
    loss.backward()
    opt_head.step()

    set_requires_grad(critic, True)
    fake = generator(torch.randn(32, 3)).detach()
    c_loss = F.softplus(critic(fake)).mean() + F.softplus(-critic(torch.randn(32, 2) + 1)).mean()
    opt_c.zero_grad()
    c_loss.backward()
    opt_c.step()

    set_requires_grad(critic, False)
    for _ in range(4):  # several turns of the generator in a row
        g_loss = F.softplus(-critic(generator(torch.randn(32, 3)))).mean()
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
    print(step, f"{loss.item():.4f} {c_loss.item():.4f} {g_loss.item():.4f}")
