"""GAN on points of a ring; the discriminator is updated several times per step of the generator."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Ring(Dataset):
    def __init__(self, n):
        angle = torch.rand(n) * 2 * math.pi
        self.points = torch.stack([angle.cos(), angle.sin()], 1)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, i):
        return self.points[i]


torch.manual_seed(0)
data = DataLoader(Ring(128), batch_size=16, shuffle=True, drop_last=True)
generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
for it in range(6):
    for _ in range(2):
        real = next(iter(data))
        fake = generator(torch.randn(16, 4)).detach()
        loss_d = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
    loss_g = F.softplus(-discriminator(generator(torch.randn(16, 4)))).mean()
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    print(it, round(loss_d.item(), 4), round(loss_g.item(), 4))
