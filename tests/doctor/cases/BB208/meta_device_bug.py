"""A model that is built on the meta device and materialized, as large ones are."""

import torch
import torch.nn.functional as F
from torch import nn


class TinyGPT(nn.Module):
    def __init__(self, vocab=20, dim=12):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 24), nn.GELU(), nn.Linear(24, dim))
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.embed.weight

    def reset_parameters(self):
        for p in self.parameters():
            nn.init.normal_(p, std=0.05) if p.dim() > 1 else nn.init.zeros_(p)

    def forward(self, ids):
        h = self.embed(ids)
        return self.head(h + self.mlp(h))


torch.manual_seed(3)
with torch.device("meta"):
    model = TinyGPT()
model.to_empty(device="cpu")  # cause: BB208
model.reset_parameters()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(6):
    ids = torch.randint(20, (8, 10))
    loss = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
