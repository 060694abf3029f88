"""Masked language modeling, slots as many as tokens, convolutions over padding with a masked pool, packed sequences."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

torch.manual_seed(5)
PAD, MASK = 0, 1


class Model(nn.Module):
    def __init__(self, vocab=30, dim=12, length=8):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=PAD)
        self.attend = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.slots = nn.Parameter(torch.randn(length, dim))  # as many as there are tokens, by chance
        self.conv = nn.Conv1d(dim, dim, 3, padding=1)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.out, self.lm = nn.Linear(3 * dim, 2), nn.Linear(dim, vocab)
        self.calls, self.last_weights = 0, None

    def forward(self, ids, lengths):
        self.calls += 1
        pad = ids == PAD
        h = self.embed(ids)
        attended, self.last_weights = self.attend(h, h, h, key_padding_mask=pad)
        read = F.softmax(h @ self.slots.t(), dim=-1) @ self.slots  # no tokens among the keys
        c = self.conv(h.transpose(1, 2)).transpose(1, 2).masked_fill(pad.unsqueeze(-1), float("-inf")).amax(1)
        packed, _ = self.gru(pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False))
        g = pad_packed_sequence(packed, batch_first=True, total_length=ids.size(1))[0]
        pooled = ((attended + read) * ~pad.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1)
        return self.out(torch.cat([pooled, c, g[torch.arange(len(ids)), lengths - 1]], 1)), self.lm(attended)


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for step in range(6):
    lengths = torch.randint(3, 9, (10,))
    lengths[0] = 8
    real = torch.arange(8) < lengths[:, None]
    ids = torch.randint(2, 30, (10, 8)) * real
    hidden = (torch.rand(10, 8) < 0.3) & real
    logits, words = model(torch.where(hidden, MASK, ids), lengths)
    loss = F.cross_entropy(logits, ids[:, 0] % 2)
    loss = loss + F.cross_entropy(words.flatten(0, 1), torch.where(hidden, ids, -100).flatten(), ignore_index=-100)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}", model.calls)
