"""Denoising: each window is masked at random places, by a transform that owns its generator."""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class RandomMask:
    def __init__(self, share, seed=0):
        self.share = share
        self.seed = seed

    def __call__(self, window, start):
        generator = random.Random(f"{self.seed} {start}")  # of this window, in whichever worker
        masked = window.clone()
        for position in range(len(window)):
            if generator.random() < self.share:
                masked[position] = 0.0
        return masked


class Windows(Dataset):
    def __init__(self, series, length, transform):
        self.series, self.length, self.transform = series, length, transform

    def __len__(self):
        return len(self.series) - self.length

    def __getitem__(self, start):
        window = self.series[start : start + self.length]
        return self.transform(window, start), window


class Trainer:
    def __init__(self, loader):
        self.loader = loader
        self.model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 12))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self, epochs):
        for epoch in range(epochs):
            for masked, window in self.loader:
                loss = nn.functional.mse_loss(self.model(masked), window)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            print("epoch", epoch, "loss", round(loss.item(), 6))


torch.manual_seed(0)
series = torch.sin(torch.arange(60) / 4)
Trainer(DataLoader(Windows(series, 12, RandomMask(0.3)), batch_size=8, num_workers=2)).fit(2)
