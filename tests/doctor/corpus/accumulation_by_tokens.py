"""Accumulation done right in three ways: sums over all tokens of the window, a factor, and gradients divided."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 12))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(torch.randint(12, (48, 6))), batch_size=4, shuffle=True)
ACCUMULATE = 4
for way in range(3):
    window = []
    for (batch,) in loader:
        window.append(batch)
        if len(window) < ACCUMULATE:
            continue
        total = sum(part[:, 1:].numel() for part in window)
        for part in window:
            logits, target = model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten()
            if way == 0:
                (F.cross_entropy(logits, target, reduction="sum") / total).backward()
            elif way == 1:
                (F.cross_entropy(logits, target) * (1 / ACCUMULATE)).backward()
            else:
                F.cross_entropy(logits, target).backward()
        if way == 2:
            for p in model.parameters():
                p.grad /= ACCUMULATE
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        window = []
    print(way, f"{model[1].weight.abs().sum().item():.4f}")
