"""GAN on 2-d points (PyTorch-GAN repository style)."""
import argparse
import math
import torch
import torch.nn as nn

parser = argparse.ArgumentParser()
parser.add_argument("--n_steps", type=int, default=50)
parser.add_argument("--batch_size", type=int, default=32)
parser.add_argument("--lr", type=float, default=0.002)
parser.add_argument("--b1", type=float, default=0.5)
parser.add_argument("--latent_dim", type=int, default=8)
opt = parser.parse_args()
torch.manual_seed(0)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(opt.latent_dim, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2))

    def forward(self, z):
        return self.model(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, x):
        return self.model(x)


def real_points(n):
    a = torch.rand(n) * 2 * math.pi
    return torch.stack([a.cos(), a.sin()], 1) * 2 + 0.05 * torch.randn(n, 2)


adversarial_loss = nn.BCEWithLogitsLoss()
generator, discriminator = Generator(), Discriminator()
optimizer_G = torch.optim.Adam(generator.parameters(), lr=opt.lr, betas=(opt.b1, 0.999))
optimizer_D = torch.optim.Adam(discriminator.parameters(), lr=opt.lr, betas=(opt.b1, 0.999))
valid, fake = torch.ones(opt.batch_size, 1), torch.zeros(opt.batch_size, 1)

for step in range(opt.n_steps):
    real = real_points(opt.batch_size)

    # -----------------
    #  Train Discriminator
    # -----------------
    optimizer_D.zero_grad()
    z = torch.randn(opt.batch_size, opt.latent_dim)
    gen = generator(z)
    d_loss = (adversarial_loss(discriminator(real), valid) + adversarial_loss(discriminator(gen.detach()), fake)) / 2
    d_loss.backward()
    optimizer_D.step()

    # -----------------
    #  Train Generator
    # -----------------
    optimizer_D.zero_grad()  # cause: BB402
    g_loss = adversarial_loss(discriminator(gen), valid)
    g_loss.backward()
    optimizer_G.step()

    if (step + 1) % 10 == 0:
        with torch.no_grad():
            radius = generator(torch.randn(200, opt.latent_dim)).norm(dim=1).mean()
        print("[Step %d/%d] [D loss: %f] [G loss: %f] radius %.3f" % (step + 1, opt.n_steps, d_loss.item(), g_loss.item(), radius))
