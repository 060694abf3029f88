"""Sparse coding: reconstruction with an activity penalty."""

import torch
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Linear(16, 24), nn.Linear(24, 16)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
data = torch.randn(64, 16)
sparsity_weight = 0.05
for step in range(10):
    x = data[torch.randint(64, (16,))]
    codes = torch.relu(encoder(x))
    reconstruction = nn.functional.mse_loss(decoder(codes), x)
    sparsity = codes.abs().mean().item()  # cause: BB307
    loss = reconstruction + sparsity_weight * sparsity
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"{step} {loss.item():.4f}")
