"""Temperature-scaled matching of two towers, gradient accumulation over two micro-batches."""

import torch
import torch.nn.functional as F
from torch import nn


class TwoTower(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.user = nn.Linear(6, dim)
        self.item = nn.Linear(9, dim)
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, u, i):
        u, i = F.normalize(self.user(u), dim=-1), F.normalize(self.item(i), dim=-1)
        return self.log_scale.exp() * u @ i.T


def main(steps=6, accumulate=2):
    torch.manual_seed(11)
    model = TwoTower()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mix = torch.randn(6, 9)
    for step in range(steps):
        for _ in range(accumulate):
            users = torch.randn(16, 6)
            logits = model(users, users @ mix)
            labels = torch.arange(16)
            loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
            (loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
        print(step, f"{loss.item():.4f}", f"scale {model.log_scale.exp().item():.3f}")


main()
