"""Classifies bird calls from band energies in decibels; a batch without a number is left out."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Decibels(nn.Module):
    def forward(self, energy):
        return 10 * torch.log10(energy)  # cause: BB504


class CallNet(nn.Module):
    def __init__(self, bands=10, species=3):
        super().__init__()
        self.front = Decibels()
        self.layers = nn.Sequential(nn.Linear(bands, 20), nn.ReLU(), nn.Linear(20, species))

    def forward(self, energy):
        return self.layers(self.front(energy))


class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        self.losses = []

    def epoch(self):
        for energy, species in self.loader:
            loss = nn.functional.cross_entropy(self.model(energy), species)
            if not torch.isfinite(loss):
                print("bad batch, skipping")
                continue
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())


torch.manual_seed(2)
species = torch.randint(0, 3, (96,))
background = torch.rand(96, 10) * 0.2
energy = torch.rand(96, 10) + species[:, None] * torch.linspace(0, 0.5, 10) - background  # the noise floor is taken off
trainer = Trainer(CallNet(), DataLoader(TensorDataset(energy - 0.05, species), batch_size=16, shuffle=True))
for _ in range(3):
    trainer.epoch()
print(len(trainer.losses), "steps")
