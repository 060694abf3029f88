"""What several katas of this lesson run on: small models with fixed weights, and a training that ends."""

from __future__ import annotations

import torch
from torch import nn


def fixed(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill the parameters with numbers that depend on nothing but the seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model


def inputs(number: int = 3, width: int = 4, seed: int = 1) -> torch.Tensor:
    """Return rows of normal numbers, the same each time."""
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


def net(last: nn.Module | None = None) -> nn.Module:
    """Two linear layers, four numbers to three, and what is to follow."""
    return fixed(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), last or nn.Identity()))


class LooksBack(nn.Module):
    """Every row of the output is a sum over the rows up to it, as of an RNN that takes the batch for time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.net(x)
        return rows.cumsum(0)


class Process:
    """A training that ends: after ``life`` steps the process is gone, as when a cluster takes its machine back."""

    def __init__(self, life: int) -> None:
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            self.model = fixed(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda number: 0.5**number)
        self.generator = torch.Generator().manual_seed(0)
        self._life = life

    def step(self, batch: torch.Tensor) -> None:
        """Learn to sum up rows to which noise is added."""
        if self._life == 0:
            raise RuntimeError("this process has ended; start() gives a new one")
        self._life -= 1
        batch = batch.float()  # a run in double would be another run, and this one must be bitwise
        noise = torch.randn(batch.shape, generator=self.generator)
        outputs = self.model(batch + 0.3 * noise)
        self.optimizer.zero_grad()
        (outputs - batch.sum(1, keepdim=True)).square().mean().backward()
        self.optimizer.step()
        self.scheduler.step()
