"""A GAN on a mixture of Gaussians."""

import torch
from torch import nn

torch.manual_seed(0)
netG = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 2))
netD = nn.Sequential(nn.Linear(2, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))
optimizerG = torch.optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
optimizerD = torch.optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()
modes = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]])

for i in range(8):
    real = modes[torch.randint(3, (32,))] + 0.1 * torch.randn(32, 2)
    optimizerD.zero_grad()
    errD_real = criterion(netD(real), torch.ones(32, 1))
    errD_real.backward()
    fake = netG(torch.randn(32, 4))
    errD_fake = criterion(netD(fake.detach()), torch.zeros(32, 1))
    errD_fake.backward()
    optimizerD.step()

    optimizerG.zero_grad()
    errG = criterion(netD(fake), torch.ones(32, 1))
    errG.backward()
    optimizerG.step()
    print(f"[{i}] D {errD_real.item() + errD_fake.item():.4f} G {errG.item():.4f}")
