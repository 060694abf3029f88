"""Contrastive pairs; losses are collected in a list and averaged at the end of the batch."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(torch.randn(48, 8)), batch_size=12)
for epoch in range(2):
    for (x,) in loader:
        losses = []
        anchor, positive = encoder(x), encoder(x + 0.1 * torch.randn_like(x))
        for a, p in zip(anchor.chunk(3), positive.chunk(3)):
            distance = (F.normalize(a, dim=1) - F.normalize(p, dim=1)).pow(2).sum(1)
            losses.append(distance.mean().item())
        loss = torch.tensor(losses).mean()
        loss.requires_grad = True  # cause: BB308
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.5f}")
