"""Image-text contrastive learning: cross entropy along both dims of one square matrix."""

import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
image, text = nn.Linear(12, 8), nn.Linear(10, 8)
log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
optimizer = torch.optim.AdamW([*image.parameters(), *text.parameters(), log_scale], lr=1e-3)
for step in range(6):
    a = F.normalize(image(torch.randn(8, 12)), dim=-1)
    b = F.normalize(text(torch.randn(8, 10)), dim=-1)
    logits = log_scale.exp() * a @ b.T
    labels = torch.arange(8)
    by_hand = -(F.log_softmax(logits, dim=0).diagonal().mean())
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2 + 0.01 * by_hand
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
