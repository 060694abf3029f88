"""Masked language modelling; a fraction of the tokens is masked, the rest is ignored."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(5)
VOCAB, MASK = 20, 19
model = nn.Sequential(nn.Embedding(VOCAB, 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, VOCAB))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for step in range(12):
    tokens = torch.randint(VOCAB - 1, (2, 6))
    masked = torch.rand(tokens.shape) < 0.08
    if not masked.any():
        continue
    labels = tokens.masked_fill(~masked, -100)
    logits = model(tokens.masked_fill(masked, MASK))
    loss = F.cross_entropy(logits.view(-1, VOCAB), labels.view(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
