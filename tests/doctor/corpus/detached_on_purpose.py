"""Straight-through codes, a commitment term, value swap, a warmed-up weight, and numbers added that are constants."""

import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder, decoder, book = nn.Linear(8, 4), nn.Linear(4, 8), nn.Embedding(16, 4)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *book.parameters()], lr=1e-3)
running = 0.0
for step in range(10):
    x = torch.randn(12, 8)
    z = encoder(x)
    code = book(torch.cdist(z, book.weight).argmin(1))
    quantized = z + (code - z).detach()
    reconstruction = F.mse_loss(decoder(quantized), x)
    commitment = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
    beta = max(0.0, (step - 4) / 10)
    loss = reconstruction + commitment + beta * z.pow(2).mean() + 0.5 * math.log(2 * math.pi)
    shown = loss.detach().clamp(max=1.0)
    loss = loss - loss.detach() + shown
    uncertainty = loss / loss.detach().abs().clamp(min=1e-3)
    optimizer.zero_grad()
    (loss + 0.1 * uncertainty).backward()
    optimizer.step()
    running += shown.item()
    print(step, f"{running / (step + 1):.4f}")
