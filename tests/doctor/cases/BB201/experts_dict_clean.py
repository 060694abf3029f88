"""Multi-task training: a shared encoder, one small head per task, kept by name."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(3)
TASKS = {"age": 1, "income": 1, "region": 4}


class MultiTask(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 24), nn.GELU(), nn.Linear(24, 24), nn.GELU())
        self.heads = nn.ModuleDict()
        for name, size in tasks.items():
            self.heads[name] = nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, size))

    def forward(self, x):
        z = self.encoder(x)
        return {name: head(z) for name, head in self.heads.items()}


class Trainer:
    def __init__(self, model, lr=3e-3):
        self.model = model
        self.opt = torch.optim.AdamW(model.parameters(), lr=lr)

    def training_step(self, x, targets):
        out = self.model(x)
        loss = F.mse_loss(out["age"].squeeze(1), targets["age"])
        loss = loss + F.mse_loss(out["income"].squeeze(1), targets["income"])
        return loss + F.cross_entropy(out["region"], targets["region"])

    def fit(self, steps):
        for step in range(steps):
            x = torch.randn(32, 10)
            targets = {"age": x[:, 0], "income": x[:, 1:3].sum(1), "region": x[:, 3:7].argmax(1)}
            loss = self.training_step(x, targets)
            self.opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.opt.step()
            print(step, round(loss.item(), 4))


Trainer(MultiTask(TASKS)).fit(8)
