"""A trainer configured by a dictionary."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONFIG = {"epochs": 5, "lr": 3e-3, "batch_size": 8, "min_lr": 1e-5}


class Trainer:
    def __init__(self, model, dataset, config):
        self.model, self.config = model, config
        self.loader = DataLoader(dataset, config["batch_size"], shuffle=True, drop_last=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
        self.scheduler = self.configure_scheduler()
        self.global_step = 0

    def configure_scheduler(self):
        num_steps = self.config["epochs"] * len(self.loader)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR
        return cosine(self.optimizer, num_steps, eta_min=self.config["min_lr"])

    def train(self):
        for epoch in range(self.config["epochs"]):
            for batch in self.loader:
                self.training_step(*batch)
            print(f"epoch {epoch} lr {self.optimizer.param_groups[0]['lr']:.2e}")

    def training_step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.smooth_l1_loss(self.model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.global_step += 1


torch.manual_seed(1)
x = torch.randn(80, 4)
Trainer(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)), TensorDataset(x, x[:, :1] ** 2), CONFIG).train()
