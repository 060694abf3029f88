"""Padding that is masked as each API wants it; causal attention without a mask; masks of other meanings."""

import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Layers(nn.Module):
    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        layer = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(dim, vocab)

    def forward(self, ids):
        h = self.encoder(self.embed(ids), src_key_padding_mask=ids == 0)
        return self.out(h)


class Dot(nn.Module):
    def __init__(self, vocab=30, dim=16, causal=False):
        super().__init__()
        self.embed, self.qkv, self.out, self.causal = (
            nn.Embedding(vocab, dim),
            nn.Linear(dim, 3 * dim),
            nn.Linear(dim, vocab),
            causal,
        )

    def forward(self, ids, attention_mask):
        q, k, v = (x.unflatten(-1, (2, -1)).transpose(1, 2) for x in self.qkv(self.embed(ids)).chunk(3, -1))
        if self.causal:  # padding is on the right: tokens never see it
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None, :].bool())
        return self.out(h.transpose(1, 2).flatten(2))


class ByHand(nn.Module):
    """Weights are masked after the softmax, and normalized again."""

    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.embed, self.q, self.k, self.out = (
            nn.Embedding(vocab, dim),
            nn.Linear(dim, dim),
            nn.Linear(dim, dim),
            nn.Linear(dim, vocab),
        )

    def forward(self, ids, attention_mask):
        h = self.embed(ids)
        weights = (self.q(h) @ self.k(h).transpose(1, 2) / math.sqrt(h.size(-1))).softmax(-1)
        weights = weights * attention_mask[:, None, :]
        return self.out(weights / weights.sum(-1, keepdim=True) @ h)


class Additive(nn.Module):
    """Pooling, with -1e9 where there is padding."""

    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.embed, self.score, self.out = nn.Embedding(vocab, dim), nn.Linear(dim, 1), nn.Linear(dim, vocab)

    def forward(self, ids, attention_mask):
        h = self.embed(ids)
        weights = F.softmax(self.score(h).squeeze(-1) + (1 - attention_mask) * -1e9, dim=-1)
        return self.out((weights.unsqueeze(-1) * h).sum(1))


models = nn.ModuleList([Layers(), Dot(), Dot(causal=True), ByHand(), Additive()])
optimizer = torch.optim.Adam(models.parameters(), lr=1e-3)
for step in range(6):
    lengths = torch.randint(3, 9, (8,))
    attention_mask = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(1, 30, (8, 9)) * attention_mask
    target = torch.where(attention_mask.bool(), ids, -100)
    loss = F.cross_entropy(models[0](ids).flatten(0, 1), target.flatten(), ignore_index=-100)
    for model in models[1:4]:
        loss = loss + F.cross_entropy(model(ids, attention_mask).flatten(0, 1), target.flatten(), ignore_index=-100)
    loss = loss + F.cross_entropy(models[4](ids, attention_mask), ids[:, 0])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
