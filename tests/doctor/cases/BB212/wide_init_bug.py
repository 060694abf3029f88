"""Plain network in a trainer class with an accumulation of gradients; weights are drawn as N(0, 1)."""

import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, depth=6, width=32):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 1)
        for p in self.parameters():
            if p.dim() > 1:
                p.data.normal_()  # cause: BB212

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.out(x)


class Trainer:
    def __init__(self, model, lr, accumulate):
        self.model, self.accumulate = model, accumulate
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def fit(self, steps):
        for step in range(steps):
            self.optimizer.zero_grad()
            total = 0.0
            for _ in range(self.accumulate):
                x = torch.randn(16, 32)
                loss = (self.model(x) - x[:, :1]).square().mean() / self.accumulate
                loss.backward()
                total += loss.item()
            self.optimizer.step()
            print(f"step {step}: {total:.4g}")


torch.manual_seed(4)
Trainer(Plain(), lr=1e-2, accumulate=2).fit(5)
