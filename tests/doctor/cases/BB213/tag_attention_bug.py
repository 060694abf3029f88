"""Sentiment of reviews with two heads of attention over words; batches are drawn by hand, without a loader."""

import torch
import torch.nn.functional as F
from torch import nn


class Sentiment(nn.Module):
    def __init__(self, words=40, dim=16, heads=2):
        super().__init__()
        self.embed = nn.Embedding(words, dim)
        self.query = nn.Parameter(torch.randn(dim, heads) * 0.3)
        self.classify = nn.Linear(dim * heads, 2)

    def forward(self, tokens):
        words = self.embed(tokens).tanh()
        weights = (words @ self.query).softmax(0)  # cause: BB213
        summary = torch.einsum("bth,btd->bhd", weights, words)
        return self.classify(summary.flatten(1))


torch.manual_seed(3)
reviews = torch.randint(40, (160, 11))
labels = (reviews < 5).any(1).long()
net = Sentiment()
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(2):
    order, total = torch.randperm(160), 0.0
    for rows in order.chunk(8):
        opt.zero_grad()
        loss = F.cross_entropy(net(reviews[rows]), labels[rows])
        loss.backward()
        opt.step()
        total += loss.item()
    print(f"epoch {epoch}: {total / 8:.4f}")
