"""Weights of classes and positives by inverse frequency, its root, by hand, and a batch without labels that is skipped."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x = torch.randn(300, 6)
y = torch.bucketize(x[:, 0], torch.tensor([0.8, 1.6]))
rare = (x[:, 1] > 1.3).float()
counts = torch.bincount(y, minlength=3).float()
model, detector = nn.Linear(6, 3), nn.Linear(6, 1)
optimizer = torch.optim.Adam([*model.parameters(), *detector.parameters()], lr=1e-3)
inverse = nn.CrossEntropyLoss(weight=counts.sum() / (3 * counts))
rooted = nn.CrossEntropyLoss(weight=counts.rsqrt())
chosen = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 1.0]), ignore_index=2)
positives = nn.BCEWithLogitsLoss(pos_weight=(1 - rare).sum() / rare.sum())
for step in range(10):
    index = torch.randint(300, (60,))
    logits, target = model(x[index]), y[index]
    loss = inverse(logits, target) + rooted(logits, target) + 0.1 * chosen(logits, target)
    loss = loss + positives(detector(x[index]).squeeze(1), rare[index])
    labelled = torch.rand(60) < (0.1 if step % 3 else 0.0)
    if labelled.any():
        loss = loss + F.cross_entropy(logits[labelled], target[labelled])
    missing = torch.full_like(target, -100)
    loss = loss + F.cross_entropy(logits, missing, reduction="sum") / 60
    orthogonal = (model.weight @ model.weight.T - torch.eye(3)).pow(2).sum()
    loss = loss + orthogonal
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
