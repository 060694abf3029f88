"""Pseudo-labels above a threshold, focal weights, hard negatives: parts without a gradient that act as factors."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, nesterov=True, momentum=0.9)
for step in range(8):
    x, y, unlabelled = torch.randn(16, 8), torch.randint(3, (16,)), torch.randn(32, 8)
    logits = model(x)
    per_sample = F.cross_entropy(logits, y, reduction="none")
    focal = ((1 - (-per_sample.detach()).exp()) ** 2 * per_sample).mean()
    hardest = per_sample.topk(4).values.mean()
    confidence, guess = model(unlabelled).detach().softmax(1).max(1)
    mask = (confidence > 0.45).float()
    pseudo = (F.cross_entropy(model(unlabelled + 0.1), guess, reduction="none") * mask).mean()
    regularizer = model[0].weight.pow(2).sum()
    loss = focal + hardest + pseudo + 1e-4 * regularizer
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f} {mask.mean().item():.2f} {per_sample.mean().item():.4f}")
