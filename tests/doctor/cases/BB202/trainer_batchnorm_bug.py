"""Convolutional network with BatchNorm, trained by a small Trainer that validates every few steps."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


class Trainer:
    def __init__(self, model, train_loader, val_loader, val_every=3):
        self.model, self.train_loader, self.val_loader = model, train_loader, val_loader
        self.val_every = val_every
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.step = 0

    def fit(self, epochs):
        self.model.train()
        for _ in range(epochs):
            for x, y in self.train_loader:
                loss = F.cross_entropy(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.step += 1
                if self.step % self.val_every == 0:
                    print(self.step, f"{loss.item():.4f} val {self.validate():.4f}")

    def validate(self):
        self.model.eval()  # cause: BB202
        total = 0.0
        with torch.inference_mode():
            for x, y in self.val_loader:
                total += F.cross_entropy(self.model(x), y, reduction="sum").item()
        return total / len(self.val_loader.dataset)


torch.manual_seed(1)
images = torch.randn(48, 1, 6, 6)
labels = (images.mean((1, 2, 3)) > 0).long()
train_loader = DataLoader(TensorDataset(images[:32], labels[:32]), batch_size=8, shuffle=True)
val_loader = DataLoader(TensorDataset(images[32:], labels[32:]), batch_size=8)
Trainer(ConvNet(), train_loader, val_loader).fit(2)
