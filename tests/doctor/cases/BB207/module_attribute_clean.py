"""Adapter tuning of a small transformer: embeddings and encoder are frozen, adapter and classifier are trained."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self, vocab=30, dim=16, tags=5):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        layer = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.adapter = nn.Sequential(nn.Linear(dim, 4), nn.GELU(), nn.Linear(4, dim))
        self.classifier = nn.Linear(dim, tags)

    def freeze(self):
        self.embed.weight.requires_grad = False
        self.encoder.requires_grad_(False)

    def forward(self, ids):
        h = self.encoder(self.embed(ids))
        return self.classifier(h + self.adapter(h))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args([])
    torch.manual_seed(1)
    model = Tagger()
    model.freeze()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    for step in range(args.steps):
        ids = torch.randint(30, (8, 7))
        loss = F.cross_entropy(model(ids).flatten(0, 1), (ids % 5).flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(step, f"{loss.item():.4f}")


main()
