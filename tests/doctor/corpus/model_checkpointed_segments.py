"""Checkpointed segments that do get gradients, need none, or are only evaluated; both variants, and nested ones."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

torch.manual_seed(0)


class Body(nn.Module):
    def __init__(self, dim=10):
        super().__init__()
        self.embed = nn.Embedding(20, dim)
        self.frozen = nn.Sequential(nn.Linear(dim, dim), nn.Tanh()).requires_grad_(False)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.tower = nn.Sequential(*(nn.Sequential(nn.Linear(dim, dim), nn.ReLU()) for _ in range(4)))

    def inner(self, h):
        return h + checkpoint(self.second, h, use_reentrant=True)

    def forward(self, ids):
        h = self.embed(ids).mean(1)
        fixed = checkpoint(self.frozen, h.detach(), use_reentrant=True)  # nothing in it is trained
        h = checkpoint(self.first, h, use_reentrant=True) + fixed
        h = checkpoint(self.inner, h, use_reentrant=True)
        h = checkpoint(lambda a, b: a * b.sigmoid(), h, fixed, use_reentrant=False)
        return checkpoint_sequential(self.tower, 2, h, use_reentrant=True)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()), nn.Linear(6, 2)

    def forward(self, x):
        dummy = torch.ones(1, requires_grad=True)
        h = checkpoint(lambda x, _: self.stem(x), x, dummy, use_reentrant=True)  # the dummy makes the graph
        return self.head(h.mean((2, 3)))


body, head, images = Body(), nn.Linear(10, 3), Images()
optimizer = torch.optim.AdamW([p for m in (body, head, images) for p in m.parameters() if p.requires_grad], lr=1e-2)
for step in range(6):
    ids, x = torch.randint(20, (12, 4)), torch.randn(12, 1, 8, 8)
    loss = F.cross_entropy(head(body(ids)), ids[:, 0] % 3) + F.cross_entropy(images(x), (x.mean((1, 2, 3)) > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        checkpoint(body.first, torch.randn(4, 10), use_reentrant=True)
    print(step, f"{loss.item():.4f}")
