"""Left padding under a causal mask, a pointer network, latents that read tokens, a router with as many experts as tokens."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
LENGTH = 10


class Decoder(nn.Module):
    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.0, batch_first=True)
        self.out = nn.Linear(dim, vocab)

    def forward(self, ids, mask):
        future = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)
        hidden = (future | (mask == 0)[:, None, :]) & ~torch.eye(LENGTH, dtype=torch.bool)  # padding looks at itself
        return self.out(self.layer(self.embed(ids), src_mask=hidden.repeat_interleave(2, 0)))


class Pointer(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.read, self.query, self.key = nn.GRU(2, dim, batch_first=True), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, points, valid):
        hidden, last = self.read(points)
        scores = (self.query(last[0]).unsqueeze(1) @ self.key(hidden).transpose(1, 2)).squeeze(1)
        return scores.masked_fill(~valid, -1e9).log_softmax(-1)


class Router(nn.Module):
    def __init__(self, dim=16, experts=LENGTH):
        super().__init__()
        self.gate, self.weights = nn.Linear(dim, experts), nn.Parameter(torch.randn(experts, dim, dim) / 4)

    def forward(self, x):
        return torch.einsum("bte,edf,btd->btf", self.gate(x).softmax(-1), self.weights, x)


class Latents(nn.Module):
    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(LENGTH, dim))
        self.embed, self.route = nn.Embedding(vocab, dim, padding_idx=0), Router(dim)
        self.attend, self.out = nn.MultiheadAttention(dim, 2, batch_first=True), nn.Linear(dim, 2)

    def forward(self, ids, pad):
        tokens = self.route(self.embed(ids))
        latents, _ = self.attend(self.latents.expand(len(ids), -1, -1), tokens, tokens, key_padding_mask=pad)
        latents, _ = self.attend(latents, latents, latents)  # among themselves: none of them is padding
        return self.out(latents.mean(1))


decoder, pointer, latents = Decoder(), Pointer(), Latents()
optimizer = torch.optim.AdamW([p for m in (decoder, pointer, latents) for p in m.parameters()], lr=1e-3)
for step in range(6):
    lengths = torch.randint(3, LENGTH, (8,))
    mask = (torch.arange(LENGTH) >= LENGTH - lengths[:, None]).long()
    ids = torch.randint(1, 30, (8, LENGTH)) * mask
    target = torch.where(mask[:, 1:] > 0, ids[:, 1:], -100)
    loss = F.cross_entropy(decoder(ids, mask)[:, :-1].flatten(0, 1), target.flatten(), ignore_index=-100)
    valid = torch.arange(LENGTH) < lengths[:, None]
    points = torch.randn(8, LENGTH, 2) * valid.unsqueeze(-1)
    loss = loss + F.nll_loss(pointer(points, valid), torch.zeros(8, dtype=torch.long))
    loss = loss + F.cross_entropy(latents(ids, mask == 0), ids[:, -1] % 2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
