"""Angles between embeddings of pairs, with a trainer that keeps its loss finite."""

import torch
import torch.nn.functional as F
from torch import nn


class Embedder(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, dim))

    def forward(self, x):
        return F.normalize(self.project(x), dim=-1)


class PairTrainer:
    def __init__(self, model, lr=1e-2):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def compute_loss(self, left, right, same):
        cosine = (self.model(left) * self.model(right)).sum(-1) * 1.001
        angle = torch.acos(cosine)  # cause: BB504
        return (angle - (~same).float()).pow(2).mean()

    def training_step(self, batch):
        loss = torch.nan_to_num(self.compute_loss(*batch))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


torch.manual_seed(3)
trainer = PairTrainer(Embedder())
for step in range(10):
    left = torch.randn(12, 6)
    same = torch.rand(12) > 0.5
    right = torch.where(same[:, None], left, torch.randn(12, 6))
    print(step, f"{trainer.training_step((left, right, same)):.4f}")
