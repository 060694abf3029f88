"""Binary classifier of clicks, bf16 autocast."""

import torch
from torch import nn


class ClickModel(nn.Module):
    def __init__(self, n_features=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_features, 32), nn.ReLU(), nn.Linear(32, 1))
        self.act = nn.Identity()

    def forward(self, x):
        return self.act(self.layers(x)).squeeze(-1)


torch.manual_seed(0)
x = torch.randn(128, 10)
clicked = (x[:, 0] + 0.3 * torch.randn(128) > 0).float()
model = ClickModel()
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for step in range(10):
    index = torch.randperm(128)[:32]
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = criterion(model(x[index]), clicked[index])
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.4f}")
