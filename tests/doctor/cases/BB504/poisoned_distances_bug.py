"""A siamese network on points; distances are compared with a margin."""

import torch
from torch import nn

torch.manual_seed(1)
points = torch.randn(40, 3)
labels = (points[:, 0] > 0).long()


def pairwise_distances(z):
    difference = z[:, None] - z[None]
    return (difference.pow(2).sum(-1)).sqrt()  # cause: BB504


def contrastive(z, labels, margin=1.0):
    d = pairwise_distances(z)
    same = labels[:, None] == labels[None]
    return torch.where(same, d, torch.relu(margin - d)).mean()


net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
history = []
for epoch in range(8):
    index = torch.randperm(len(points))[:20]
    loss = contrastive(net(points[index]), labels[index])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append(loss.item())
print("first loss", round(history[0], 4), "last loss", round(history[-1], 4))
