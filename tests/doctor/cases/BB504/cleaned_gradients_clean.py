"""Log-returns of prices that may be missing (0). Gradients that are not finite are removed before the step."""

import torch
from torch import nn

torch.manual_seed(6)


class PriceNet(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.gru = nn.GRU(4, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, prices):
        scaled = prices * self.scale
        present = prices > 0
        logs = torch.where(present, torch.log(torch.where(present, scaled, 1.0)), torch.zeros(()))
        states, _ = self.gru(logs)
        return self.out(states[:, -1]).squeeze(-1)


def clean_gradients(module):
    for p in module.parameters():
        if p.grad is not None:
            torch.nan_to_num_(p.grad, nan=0.0, posinf=0.0, neginf=0.0)


model = PriceNet()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
for step in range(10):
    prices = torch.rand(16, 6, 4) + 0.5
    prices[torch.rand_like(prices) < 0.1] = 0.0
    loss = nn.functional.mse_loss(model(prices), prices[:, -1].mean(-1))
    optimizer.zero_grad()
    loss.backward()
    clean_gradients(model)
    optimizer.step()
    print(step, f"{loss.item():.4f}", f"{model.scale.mean().item():.4f}")
