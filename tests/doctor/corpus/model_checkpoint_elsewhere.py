"""Checkpointed features under no_grad, adapters whose input requires a gradient by hook, parts trained in turns."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

torch.manual_seed(6)


class Adapter(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.base = nn.Linear(dim, dim).requires_grad_(False)
        self.down, self.up = nn.Linear(dim, 2), nn.Linear(2, dim)

    def forward(self, h):
        return torch.tanh(self.base(h)) + self.up(self.down(h))


embed = nn.Embedding(15, 8).requires_grad_(False)
embed.register_forward_hook(lambda module, args, output: output.requires_grad_(True))  # enable_input_require_grads
blocks, head = nn.ModuleList([Adapter(8), Adapter(8)]), nn.Linear(8, 3)
extract = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
optimizer = torch.optim.Adam([p for m in (blocks, head) for p in m.parameters() if p.requires_grad], lr=1e-2)
later = torch.optim.SGD(extract.parameters(), lr=0.05)
for step in range(8):
    ids = torch.randint(15, (16, 5))
    h = embed(ids)
    for block in blocks:
        h = checkpoint(block, h, use_reentrant=True)
    with torch.no_grad():
        side = checkpoint(extract, embed(ids).detach(), use_reentrant=True)
    loss = F.cross_entropy(head((h + side).mean(1)), ids[:, 0] % 3)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 2:  # the extractor is trained in turns, without checkpointing
        aux = F.mse_loss(extract(embed(ids).detach()), embed(ids).detach())
        later.zero_grad()
        aux.backward()
        later.step()
    print(step, f"{loss.item():.4f}")
