"""Only the backbone is saved, on purpose: a new model takes it over, is scored once as a baseline, and is trained."""

import io

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.backbone(x))


def fit(net, rule, steps=6):
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        x = torch.randn(32, 6)
        loss = nn.functional.cross_entropy(net(x), rule(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def score(net, rule):
    net.eval()
    with torch.no_grad():
        x = torch.randn(200, 6)
        return (net(x).argmax(1) == rule(x)).float().mean().item()


torch.manual_seed(14)
first = Net()
fit(first, lambda x: x[:, :3].argmax(1))
file = io.BytesIO()
torch.save(first.backbone.state_dict(), file)
file.seek(0)
second = Net()
second.backbone.load_state_dict(torch.load(file))
print("before", round(score(second, lambda x: x[:, 3:].argmax(1)), 3))
fit(second, lambda x: x[:, 3:].argmax(1))
print("after", round(score(second, lambda x: x[:, 3:].argmax(1)), 3))
