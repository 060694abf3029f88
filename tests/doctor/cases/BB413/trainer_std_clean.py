"""Normalizing scores within each group; a group may have a single member."""

import torch
from torch import nn


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x, groups):
        raw = self.score(x).squeeze(1)
        scores = []
        for group in groups.unique():
            member = raw[groups == group]
            centered = member - member.mean()
            scores.append(centered / ((centered.pow(2).mean() + 1e-6).sqrt()))
        return torch.cat(scores)


class AmpTrainer:
    def __init__(self, model, lr):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(self, x, groups, target):
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.mse_loss(self.model(x, groups), target)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()


torch.manual_seed(1)
trainer = AmpTrainer(Ranker(), 0.05)
groups = torch.tensor([0] * 5 + [1] * 6 + [2])
for step in range(10):
    x = torch.randn(12, 5)
    print(step, round(trainer.step(x, groups, x[:, 0]), 4))
