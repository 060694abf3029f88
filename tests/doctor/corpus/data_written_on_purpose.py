"""Data sets that write while they are read: caches, counters, scores, clamping, soft labels, and a replay buffer."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)


class Cached(Dataset):
    """Decodes each sample once; counts how often it was drawn."""

    def __init__(self, n):
        self.raw = np.random.default_rng(0).integers(0, 255, (n, 6))
        self.decoded = torch.full((n, 6), float("nan"))
        self.objects = [None] * n
        self.num_draws = np.zeros(n, dtype=np.int64)
        self.last_seen = {}

    def __len__(self):
        return len(self.raw)

    def __getitem__(self, i):
        self.num_draws[i] += 1
        self.last_seen[i] = self.num_draws[i]
        if torch.isnan(self.decoded[i, 0]):
            self.decoded[i] = torch.from_numpy(self.raw[i] / 255.0)
            self.objects[i] = {"target": self.decoded[i].sum()}
        return self.decoded[i] + 0.1 * torch.randn(6), self.objects[i]["target"]


class Clamped(Dataset):
    """Clips outliers where they are stored, which changes nothing the second time."""

    def __init__(self, n):
        self.x = torch.randn(n, 6) * 3
        self.y = self.x.clamp(-1, 1).mean(1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i].clamp_(-1, 1), self.y[i]


class SelfLabeled(Dataset):
    """Training writes a running average of the predictions into the targets."""

    def __init__(self, n):
        self.x, self.soft = torch.randn(n, 6), torch.full((n,), 0.5)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.soft[i], i


class Replay(Dataset):
    """A ring that the training goes on filling."""

    def __init__(self, size):
        self.states, self.returns, self.size = torch.randn(size, 6), torch.randn(size), size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return self.states[i], self.returns[i]


def train(dataset, epochs=3, after=lambda *_: None):
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1), nn.Flatten(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for x, y, *rest in DataLoader(dataset, batch_size=8, shuffle=True):
            loss = F.mse_loss(out := model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after(out.detach(), *rest)
    print(f"{loss.item():.4f}")


train(Cached(32))
train(Clamped(32))
labels = SelfLabeled(32)


def average(out, i):
    labels.soft[i] = 0.9 * labels.soft[i] + 0.1 * out


train(labels, after=average)
ring = Replay(32)
train(ring, after=lambda out: (ring.states[:4].copy_(torch.randn(4, 6)), ring.returns[:4].add_(0.1)))
