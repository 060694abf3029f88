"""A trainer class that can go on from its last snapshot; learning rate with warm-up and cosine."""

import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR


class Trainer:
    def __init__(self, model, total_epochs=8, lr=0.05):
        self.model = model
        self.total_epochs = total_epochs
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=total_epochs)
        self.epoch = 0

    def snapshot(self):
        buffer = io.BytesIO()
        torch.save(
            {
                "model_state": self.model.state_dict(),
                "optimizer_state": self.optimizer.state_dict(),
                "scheduler_state": self.scheduler.state_dict(),
                "epochs_run": self.epoch,
            },
            buffer,
        )
        buffer.seek(0)
        return buffer

    def restore(self, file):
        snapshot = torch.load(file, map_location="cpu")  # cause: BB701
        self.model.load_state_dict(snapshot["model_state"])
        self.optimizer.load_state_dict(snapshot["optimizer_state"])
        self.epoch = snapshot["epochs_run"]

    def fit(self, until):
        while self.epoch < until:
            for _ in range(4):
                x = torch.randn(16, 10)
                y = (x[:, 0] > x[:, 1]).long()
                loss = F.cross_entropy(self.model(x), y)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()
            self.epoch += 1
            print(self.epoch, round(loss.item(), 4), self.scheduler.get_last_lr()[0])


def build():
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 2))


torch.manual_seed(1)
first = Trainer(build())
first.fit(until=5)
snapshot = first.snapshot()

second = Trainer(build())
second.restore(snapshot)
second.fit(until=8)
