"""A regression with linear warm-up over the first hundred steps."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset


def linear_warmup(optimizer, warmup_steps):
    return LambdaLR(optimizer, lambda step: min(1.0, step / warmup_steps))


class Trainer:
    def __init__(self, model, loader):
        self.model, self.loader = model, loader
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        self.scheduler = linear_warmup(self.optimizer, warmup_steps=8)

    def fit(self, epochs):
        for epoch in range(epochs):
            for x, y in self.loader:
                loss = nn.functional.mse_loss(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.scheduler.step()
            print(f"epoch {epoch}: {loss.item():.4f}")


torch.manual_seed(1)
inputs = torch.randn(96, 6)
dataset = TensorDataset(inputs, inputs.prod(1, keepdim=True))
Trainer(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1)), DataLoader(dataset, 12)).fit(3)
