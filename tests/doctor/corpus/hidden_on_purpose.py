"""Modules kept out of `parameters()` on purpose: a perceptual loss in a list, a teacher, and layers with an optimizer."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Autoencoder(nn.Module):
    def __init__(self, perceptual):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 3), nn.Linear(3, 8)
        self._perceptual = [perceptual]  # not saved with the model
        self._teacher = (copy.deepcopy(self.encoder),)
        self.fast = [nn.Linear(3, 3), nn.Linear(3, 3)]
        self.slow = {"a": torch.zeros(3, requires_grad=True), "b": torch.zeros(3, requires_grad=True)}

    def forward(self, x):
        z = self.encoder(x)
        for layer in self.fast:
            z = z + layer(z)
        return self.decoder(z + self.slow["a"] * self.slow["b"].exp()), z

    def loss(self, x):
        out, z = self(x)
        with torch.no_grad():
            target = self._teacher[0](x)
        return F.mse_loss(self._perceptual[0](out), self._perceptual[0](x)) + 0.1 * F.mse_loss(z, target)


model = Autoencoder(nn.Sequential(nn.Linear(8, 6), nn.Tanh()).eval())
groups = [{"params": model.parameters()}, {"params": [p for m in model.fast for p in m.parameters()], "lr": 1e-2}]
optimizer = torch.optim.Adam(groups, lr=1e-3)
for step in range(6):
    loss = model.loss(torch.randn(16, 8))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for p in model.slow.values():
            p -= 0.01 * p.grad
            p.grad = None
    print(step, f"{loss.item():.4f}")
