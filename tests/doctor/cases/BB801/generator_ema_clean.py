"""A GAN on short signals. Samples are drawn from an average of the generator."""

from copy import deepcopy

import torch
from torch import nn


class Generator(nn.Module):
    def __init__(self, z=4, width=16, length=12):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(z, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, length), nn.Tanh()
        )

    def forward(self, z):
        return self.net(z)


class ModelEMA:
    def __init__(self, model, decay=0.95):
        self.module, self.decay = deepcopy(model).eval(), decay
        for p in self.module.parameters():
            p.requires_grad_(False)

    def update(self, model):
        with torch.no_grad():
            for ema_p, p in zip(self.module.state_dict().values(), model.state_dict().values()):
                ema_p.copy_(self.decay * ema_p + (1 - self.decay) * p if ema_p.is_floating_point() else p)


torch.manual_seed(8)
generator, discriminator = Generator(), nn.Sequential(nn.Linear(12, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))
opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
opt_d = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.99))
ema = ModelEMA(generator)
bce = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
for step in range(9):
    real = torch.sin(torch.linspace(0, 6, 12) + torch.rand(16, 1))
    fake = generator(torch.randn(16, 4))
    opt_d.zero_grad()
    loss_d = bce(discriminator(real), ones) + bce(discriminator(fake.detach()), zeros)
    loss_d.backward()
    opt_d.step()
    opt_g.zero_grad()
    loss_g = bce(discriminator(fake), ones)
    loss_g.backward()
    opt_g.step()
    ema.update(generator)
    if step % 4 == 0:
        with torch.no_grad():
            samples = ema.module(torch.randn(32, 4))
        print(f"{step} D {loss_d.item():.3f} G {loss_g.item():.3f} spread {samples.std().item():.3f}")
