"""Energy-based sampler: the energy's gradient by the sample is penalized; the energy is frozen for the sampler's turn."""

import torch
from torch import nn


class Game:
    def __init__(self):
        self.energy = nn.Sequential(nn.Linear(3, 16), nn.Softplus(), nn.Linear(16, 1))
        self.sampler = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 3))
        self.energy_opt = torch.optim.Adam(self.energy.parameters(), lr=1e-3)
        self.sampler_opt = torch.optim.Adam(self.sampler.parameters(), lr=1e-3)

    def slope(self, samples):
        samples = samples.requires_grad_()
        (slope,) = torch.autograd.grad(self.energy(samples).sum(), samples, create_graph=True)
        return slope.square().sum(1).mean()

    def energy_turn(self, real):
        self.energy_opt.zero_grad()
        fake = self.sampler(torch.randn(len(real), 2)).detach()
        loss = (
            self.energy(real).mean() - self.energy(fake).mean() + 0.5 * self.slope(real + 0.1 * torch.randn(real.shape))
        )
        loss.backward()
        self.energy_opt.step()
        return loss.item()

    def sampler_turn(self, count):
        self.energy.requires_grad_(False)  # cause: BB412
        self.sampler_opt.zero_grad()
        loss = self.energy(self.sampler(torch.randn(count, 2))).mean()
        loss.backward()
        self.sampler_opt.step()
        return loss.item()


torch.manual_seed(17)
game = Game()
for turn in range(8):
    real = torch.randn(24, 3) * 0.3 + 1
    print(turn, f"{game.energy_turn(real):.4f} {game.sampler_turn(24):.4f}")
