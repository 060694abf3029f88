"""Autoencoder and classifier share an encoder; the trainer builds one loss from both heads."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())

    def forward(self, x):
        return self.net(x)


class LitModel(nn.Module):
    def __init__(self, lr):
        super().__init__()
        self.lr = lr
        self.encoder, self.decoder, self.classifier = Encoder(), nn.Linear(16, 64), nn.Linear(16, 3)

    def training_step(self, batch):
        x, y = batch
        z = self.encoder(x)
        reconstruction = F.mse_loss(self.decoder(z).view_as(x), x)
        return F.cross_entropy(self.classifier(z), y) + 0.5 * reconstruction

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


class Trainer:
    def __init__(self, max_steps):
        self.max_steps = max_steps

    def fit(self, model, batches):
        optimizer = model.configure_optimizers()
        for step in range(self.max_steps):
            loss = model.training_step(batches[step % len(batches)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(f"step {step} train_loss {loss.item():.4f}")


parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--max-steps", type=int, default=8)
args = parser.parse_args([])
torch.manual_seed(5)
data = [(torch.randn(8, 1, 8, 8), torch.randint(3, (8,))) for _ in range(4)]
Trainer(args.max_steps).fit(LitModel(args.lr), data)
