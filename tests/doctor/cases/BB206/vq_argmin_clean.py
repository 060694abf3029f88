"""Vector-quantized autoencoder with eight codes."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class VQ(nn.Module):
    def __init__(self, dim=4, codes=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, dim))
        self.codebook = nn.Embedding(codes, dim)
        self.decoder = nn.Sequential(nn.Linear(dim, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x):
        z = self.encoder(x)
        index = torch.cdist(z, self.codebook.weight).argmin(dim=1)
        q = self.codebook(index)
        return self.decoder(z + (q - z).detach()), z, q


model = VQ()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for step in range(8):
    x = torch.randn(32, 10)
    out, z, q = model(x)
    loss = F.mse_loss(out, x) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
