"""Metric learning: the class centers of the ArcFace loss are learned together with the embedding network."""

import os
import tempfile

import torch
import torch.nn.functional as F
from torch import nn


class ArcFace(nn.Module):
    def __init__(self, dim, classes, s=16.0, m=0.2):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, dim))
        self.s, self.m = s, m

    def forward(self, z, y):
        cos = F.linear(F.normalize(z), F.normalize(self.centers)).clamp(-0.99, 0.99)
        target = torch.cos(cos.acos() + self.m)
        hot = F.one_hot(y, cos.shape[1]).bool()
        return F.cross_entropy(self.s * torch.where(hot, target, cos), y)


torch.manual_seed(0)
out = tempfile.mkdtemp()
embedder = nn.Sequential(nn.Linear(20, 64), nn.PReLU(), nn.Linear(64, 8))
criterion = ArcFace(8, 10)
optimizer = torch.optim.AdamW([*embedder.parameters(), *criterion.parameters()], lr=1e-3)
for epoch in range(3):
    for _ in range(4):
        y = torch.randint(10, (32,))
        x = torch.randn(32, 20) + F.one_hot(y, 20)
        loss = criterion(embedder(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: {loss.item():.3f}")
    torch.save(  # cause: BB705
        {"epoch": epoch, "model": embedder.state_dict(), "optimizer": optimizer.state_dict()},
        os.path.join(out, "last.pt"),
    )
