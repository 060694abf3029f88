"""Adapters in a text classifier whose embedding and encoder are frozen; blocks are checkpointed to save memory."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mix = nn.Linear(dim, dim)
        self.adapter = nn.Sequential(nn.Linear(dim, 4), nn.GELU(), nn.Linear(4, dim))

    def forward(self, h):
        h = h + F.gelu(self.mix(h))
        return h + self.adapter(h)


class Classifier(nn.Module):
    def __init__(self, vocab=40, dim=16, depth=2, classes=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList([Block(dim) for _ in range(depth)])
        self.head = nn.Linear(dim, classes)

    def forward(self, ids):
        h = self.embed(ids)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=True)  # cause: BB216
        return self.head(h.mean(1))


model = Classifier()
for name, parameter in model.named_parameters():
    parameter.requires_grad = "adapter" in name or "head" in name
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for step in range(6):
    ids = torch.randint(40, (16, 7))
    labels = ids[:, 0] % 3
    loss = F.cross_entropy(model(ids), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step} loss {loss.item():.4f}")
