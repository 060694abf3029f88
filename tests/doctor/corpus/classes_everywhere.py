"""Classes in dim 1 of images, several-hot targets, missing labels as -1 under a mask, one sample without a batch."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
segment = nn.Conv2d(1, 4, 3, padding=1)
tokens = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 6))
attributes = nn.Linear(8, 7)
optimizer = torch.optim.Adam([*segment.parameters(), *tokens.parameters(), *attributes.parameters()], lr=1e-3)
for step in range(5):
    images, masks = torch.randn(2, 1, 4, 4), torch.randint(4, (2, 4, 4))
    words = torch.randint(6, (3, 6))
    features = torch.randn(10, 8)
    labels = torch.randint(-1, 2, (10, 7)).float()
    known = labels >= 0
    loss = F.cross_entropy(segment(images), masks)
    loss = loss + F.cross_entropy(tokens(words).transpose(1, 2), words)
    scores = attributes(features)
    loss = loss + (F.binary_cross_entropy_with_logits(scores, labels, reduction="none") * known).sum() / known.sum()
    loss = loss + F.binary_cross_entropy_with_logits(scores, labels, weight=known.float())
    several = (torch.rand(10, 7) < 0.4).float()
    loss = loss - (several * scores.log_softmax(1)).sum(1).mean() + F.cross_entropy(scores, several)
    loss = loss + F.cross_entropy(scores[0], torch.tensor(3)) + F.cross_entropy(scores[1], torch.full((7,), 1 / 7))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
