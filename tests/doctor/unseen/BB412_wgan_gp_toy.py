"""WGAN-GP on a toy mixture (after the classic wgan-gp pytorch port)."""
import torch
from torch import autograd, nn, optim

DIM, LAMBDA, CRITIC_ITERS, BATCH, ITERS, ZDIM = 32, 1.0, 3, 32, 18, 4
torch.manual_seed(1)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(ZDIM, DIM), nn.ReLU(True), nn.Linear(DIM, DIM), nn.ReLU(True), nn.Linear(DIM, 2))

    def forward(self, noise):
        return self.main(noise)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(2, DIM), nn.Softplus(), nn.Linear(DIM, DIM), nn.Softplus(), nn.Linear(DIM, 1))

    def forward(self, inputs):
        return self.main(inputs).view(-1)


def inf_train_gen():
    centers = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) * 2
    while True:
        yield centers[torch.randint(0, 4, (BATCH,))] + 0.05 * torch.randn(BATCH, 2)


def calc_gradient_penalty(netD, real_data, fake_data):
    alpha = torch.rand(BATCH, 1)
    interpolates = (alpha * real_data + (1 - alpha) * fake_data).requires_grad_(True)
    disc = netD(interpolates)
    gradients = autograd.grad(disc, interpolates, torch.ones_like(disc), create_graph=True, retain_graph=True)[0]
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * LAMBDA


netG, netD = Generator(), Discriminator()
optimizerD = optim.Adam(netD.parameters(), lr=2e-3, betas=(0.5, 0.9))
optimizerG = optim.Adam(netG.parameters(), lr=2e-3, betas=(0.5, 0.9))
data = inf_train_gen()

for iteration in range(ITERS):
    # (1) Update D network
    for _ in range(CRITIC_ITERS):
        real = next(data)
        netD.zero_grad()
        with torch.no_grad():
            fake = netG(torch.randn(BATCH, ZDIM))
        D_real, D_fake = netD(real).mean(), netD(fake).mean()
        gradient_penalty = calc_gradient_penalty(netD, real, fake)
        D_cost = D_fake - D_real + gradient_penalty
        D_cost.backward()
        optimizerD.step()
    # (2) Update G network
    for p in netD.parameters():
        p.requires_grad = False  # cause: BB412
    netG.zero_grad()
    G = netD(netG(torch.randn(BATCH, ZDIM))).mean()
    G_cost = -G
    G_cost.backward()
    optimizerG.step()
    if iteration % 6 == 5:
        with torch.no_grad():
            r = netG(torch.randn(256, ZDIM)).norm(dim=1).mean()
        print(f"iter {iteration} W {(D_real - D_fake).item():.4f} gp {gradient_penalty.item():.4f} G {G_cost.item():.4f} radius {r:.3f}")
