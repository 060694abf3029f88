"""Cross-validation: every fold is meant to start from the same initial weights."""

import torch
from torch import nn

torch.manual_seed(21)
X = torch.randn(60, 4)
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1 * torch.randn(60)
net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
initial_weights = {k: v.clone() for k, v in net.state_dict().items()}
scores = []
for fold in range(3):
    net.load_state_dict(initial_weights)
    optim = torch.optim.Adam(net.parameters(), lr=0.02)
    held_out = torch.arange(60) % 3 == fold
    for step in range(12):
        optim.zero_grad()
        loss = (net(X[~held_out]).squeeze(-1) - Y[~held_out]).square().mean()
        loss.backward()
        optim.step()
    with torch.no_grad():
        scores.append((net(X[held_out]).squeeze(-1) - Y[held_out]).square().mean().item())
    print(f"fold {fold}: {scores[-1]:.4f}")
