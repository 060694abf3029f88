"""Tabular regression: a deep MLP whose depth is a command-line option."""

import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, default=3)
parser.add_argument("--width", type=int, default=16)
args = parser.parse_args([])

torch.manual_seed(1)


class DeepMLP(nn.Module):
    def __init__(self, n_in, width, depth):
        super().__init__()
        self.stem = nn.Linear(n_in, width)
        self.hidden = [nn.Linear(width, width) for _ in range(depth)]  # cause: BB201
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        h = torch.relu(self.stem(x))
        for layer in self.hidden:
            h = torch.relu(layer(h)) + h
        return self.out(h).squeeze(-1)


x = torch.randn(64, 5)
y = x[:, 0] * x[:, 1] - x[:, 2]
net = DeepMLP(5, args.width, args.depth)
print("parameters:", sum(p.numel() for p in net.parameters()))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for epoch in range(8):
    optimizer.zero_grad()
    loss = nn.functional.mse_loss(net(x), y)
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
