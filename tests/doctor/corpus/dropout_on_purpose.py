"""Dropout that is on in evaluation mode for a reason, or off by a condition: samples of a predictive distribution."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 1)
        self.layer = nn.Dropout(0.2)

    def forward(self, x):
        h = F.relu(self.first(x))
        if self.training:
            h = F.dropout(h, 0.3)
        h = F.dropout(F.relu(self.second(h)), 0.1, training=True)
        return self.last(self.layer(h)).squeeze(1)


net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
for step in range(25):
    x = torch.randn(16, 6)
    loss = F.mse_loss(net(x), x[:, 0])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 8 == 0:
        net.eval()
        net.layer.train()
        with torch.no_grad():
            samples = torch.stack([net(x) for _ in range(4)])
        print(step, f"{loss.item():.4f} +- {samples.std(0).mean().item():.4f}")
        net.train()
