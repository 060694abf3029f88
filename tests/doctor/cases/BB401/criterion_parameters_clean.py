"""Two tasks weighted by learned uncertainties."""

import torch
import torch.nn.functional as F
from torch import nn


class MultiTaskNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 32), nn.GELU())
        self.depth, self.label = nn.Linear(32, 1), nn.Linear(32, 4)

    def forward(self, x):
        h = self.trunk(x)
        return self.depth(h).squeeze(-1), self.label(h)


class UncertaintyWeights(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(tasks))

    def forward(self, losses):
        return (losses * torch.exp(-self.log_var) + self.log_var).sum()


torch.manual_seed(1)
net, weighting = MultiTaskNet(), UncertaintyWeights(2)
optimizer = torch.optim.AdamW([*net.parameters(), *weighting.parameters()], lr=3e-3)


def train_step(x, depth, label):
    optimizer.zero_grad()
    predicted, logits = net(x)
    losses = torch.stack([F.mse_loss(predicted, depth), F.cross_entropy(logits, label)])
    total = weighting(losses)
    total.backward()
    optimizer.step()
    return losses.tolist()


for step in range(12):
    x = torch.randn(24, 10)
    losses = train_step(x, x[:, 0].tanh(), (x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long())
    print(step, " ".join(f"{value:.4f}" for value in losses))
