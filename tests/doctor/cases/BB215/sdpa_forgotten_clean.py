"""A tagger with scaled_dot_product_attention; a trainer with bf16 autocast on the CPU."""

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, mask):
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm(x)).chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return x + self.proj(out.transpose(1, 2).reshape(b, t, c))


class Tagger(nn.Module):
    def __init__(self, vocab=40, dim=16, tags=4):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList([Block(dim, 2), Block(dim, 2)])
        self.tag = nn.Linear(dim, tags)

    def forward(self, ids):
        mask = ids.ne(0)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.tag(x)


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(self, ids, tags):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), tags.flatten(), ignore_index=-100)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


torch.manual_seed(8)
trainer = Trainer(Tagger())
for i in range(6):
    lengths = torch.randint(3, 9, (8,))
    ids = torch.randint(1, 40, (8, 8)) * (torch.arange(8) < lengths[:, None])
    tags = torch.where(ids > 0, ids % 4, -100)
    print(i, f"{trainer.step(ids, tags):.3f}")
