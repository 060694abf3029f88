"""Sum-pooled bags of counts in half precision; a trainer that stops nothing."""

import torch
from torch import nn


class BagModel(nn.Module):
    def __init__(self, features=32, hidden=16):
        super().__init__()
        self.embed = nn.Linear(features, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, bags):
        h = torch.relu(self.embed(bags))
        pooled = h.pow(2).sum(1).sqrt()  # cause: BB506
        return self.out(self.norm(pooled)).squeeze(-1)


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def fit(self, batches):
        for number, (bags, target) in enumerate(batches):
            with torch.autocast("cpu", dtype=torch.float16):
                prediction = self.model(bags)
            loss = nn.functional.mse_loss(prediction.float(), target)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            print(number, f"{loss.item():.3f}")


torch.manual_seed(2)
batches = [(torch.rand(6, 20, 32) * 400, torch.rand(6)) for _ in range(8)]
Trainer(BagModel()).fit(batches)
