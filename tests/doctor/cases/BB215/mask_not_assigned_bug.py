"""Attention pooling over words by hand; batches are drawn from a list, the tokenizer hands out a mask."""

import argparse
import math

import torch
from torch import nn


class Attention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, h, attention_mask):
        scores = self.q(h) @ self.k(h).transpose(1, 2) / math.sqrt(h.size(-1))
        scores.masked_fill(attention_mask[:, None, :] == 0, float("-inf"))  # cause: BB215
        return torch.softmax(scores, dim=-1) @ self.v(h)


class Rater(nn.Module):
    def __init__(self, vocab, dim=12):
        super().__init__()
        self.embed, self.attention, self.out = nn.Embedding(vocab, dim), Attention(dim), nn.Linear(dim, 1)

    def forward(self, input_ids, attention_mask):
        h = self.embed(input_ids)
        h = h + self.attention(h, attention_mask)
        weights = attention_mask.unsqueeze(-1).float()
        return self.out((h * weights).sum(1) / weights.sum(1)).squeeze(-1)


def tokenize(texts, length):
    rows = [text + [0] * (length - len(text)) for text in texts]
    masks = [[1] * len(text) + [0] * (length - len(text)) for text in texts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--lr", type=float, default=1e-2)
    args = parser.parse_args([])
    torch.manual_seed(4)
    model = Rater(30)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for step in range(args.steps):
        texts = [torch.randint(1, 30, (n,)).tolist() for n in torch.randint(2, 9, (10,)).tolist()]
        batch = tokenize(texts, max(map(len, texts)))
        target = torch.tensor([sum(t) / len(t) / 30 for t in texts])
        loss = nn.functional.mse_loss(model(**batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, f"{loss.item():.4f}")


main()
