"""Spectra, scaled and with noise added, by transforms in the manner of torchvision."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split


class Compose:
    def __init__(self, *transforms):
        self.transforms = transforms

    def __call__(self, x):
        for transform in self.transforms:
            x = transform(x)
        return x


class Standardize:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, x):
        return (x - self.mean) / self.std


class AddNoise:
    def __init__(self, sigma):
        self.sigma = sigma

    def __call__(self, x):
        x.add_(torch.randn_like(x), alpha=self.sigma)  # cause: BB107
        return x


class Spectra(Dataset):
    def __init__(self, spectra, concentrations, transform=None):
        self.items = [{"spectrum": s, "y": c} for s, c in zip(spectra, concentrations)]
        self.transform = transform

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        item = self.items[i]
        x = item["spectrum"]
        if self.transform is not None:
            x = self.transform(x)
        return x, item["y"]


class Trainer:
    def __init__(self, model, loaders, lr):
        self.model, self.loaders = model, loaders
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def epoch(self, split):
        training = split == "train"
        self.model.train(training)
        total = 0.0
        with torch.set_grad_enabled(training):
            for x, y in self.loaders[split]:
                loss = nn.functional.mse_loss(self.model(x).squeeze(1), y)
                if training:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                total += loss.item() * len(x)
        return total / len(self.loaders[split].dataset)


torch.manual_seed(0)
spectra = torch.rand(80, 20)
transform = Compose(AddNoise(0.05), Standardize(0.5, 0.3))
dataset = Spectra(spectra, spectra[:, :4].sum(1), transform)
train_set, val_set = random_split(dataset, [60, 20])
loaders = {"train": DataLoader(train_set, 12, shuffle=True), "val": DataLoader(val_set, 20)}
trainer = Trainer(nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1)), loaders, lr=1e-2)
for epoch in range(3):
    print(epoch, f"{trainer.epoch('train'):.4f} {trainer.epoch('val'):.4f}")
