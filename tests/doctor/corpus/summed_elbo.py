"""The classic variational autoencoder, summed over the batch, and a sum of losses over tasks."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder = nn.Linear(16, 8), nn.Linear(4, 16)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for step in range(8):
    x = (torch.rand(10, 16) < 0.4).float()
    mu, logvar = encoder(x).chunk(2, dim=1)
    z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
    bce = F.binary_cross_entropy(torch.sigmoid(decoder(z)), x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    l1 = sum(p.abs().sum() for p in decoder.parameters())
    optimizer.zero_grad()
    (bce + kld).backward()
    (F.mse_loss(decoder(z.detach()), x) + 1e-4 * l1).backward()
    optimizer.step()
    print(step, f"{bce.item():.3f} {kld.item():.3f}")
tasks = [torch.randn(6, 16) for _ in range(3)]
for step in range(4):
    optimizer.zero_grad()
    for task in tasks:
        F.mse_loss(decoder(encoder(task)[:, :4]), task).backward()
    optimizer.step()
