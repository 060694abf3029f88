"""Tagger: a GRU over tokens, one tag per token, padding ignored."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(2)
PAD, TAGS = -1, 5


class Tagger(nn.Module):
    def __init__(self, vocab=30, dim=12):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(2 * dim, TAGS)

    def forward(self, words):
        hidden, _ = self.gru(self.embedding(words))
        scores = self.classifier(hidden)
        return F.log_softmax(scores, dim=-1)


words = torch.randint(30, (16, 7))
tags = words % TAGS
tags[:, 5:] = PAD
tagger = Tagger()
optimizer = torch.optim.Adam(tagger.parameters(), lr=5e-3)
for epoch in range(5):
    tagger.train()
    log_probs = tagger(words)
    loss = F.nll_loss(log_probs.reshape(-1, TAGS), tags.reshape(-1), ignore_index=PAD)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(tagger.parameters(), 5.0)
    optimizer.step()
    print(epoch, loss.item())
