"""Fingerprints of spectra: intensities are brought to unit length in half precision, then embedded."""

import torch
from torch import nn


def unit(spectra):
    spectra = spectra.half()
    length = (spectra * spectra).sum(-1, keepdim=True).sqrt()  # cause: BB506
    return (spectra / length).float()


class Fingerprint(nn.Module):
    def __init__(self, bins=20, classes=4):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(bins, 24), nn.ReLU(), nn.Linear(24, classes))

    def forward(self, spectra):
        return self.embed(unit(spectra))


torch.manual_seed(13)
peaks = torch.rand(4, 20) * 900
net = Fingerprint()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(8):
    kind = torch.randint(4, (24,))
    spectra = peaks[kind] + 60 * torch.rand(24, 20) + 200
    loss = nn.functional.cross_entropy(net(spectra), kind)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step}: {loss.item():.4f}")
