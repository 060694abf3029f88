"""Attention-pooled document classifier."""
from argparse import Namespace

import torch
import torch.nn as nn

args = Namespace(vocab=50, dim=20, att=16, len=14, classes=3, lr=4e-3, steps=45, bs=16, seed=9)


class AttentionPool(nn.Module):
    def __init__(self, dim, att):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, att), nn.Tanh(), nn.Linear(att, 1, bias=False))

    def forward(self, h):
        w = torch.softmax(self.score(h), dim=0)  # cause: BB213
        return (w * h).sum(1), w


class DocClassifier(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.emb = nn.Embedding(args.vocab, args.dim)
        self.gru = nn.GRU(args.dim, args.dim // 2, bidirectional=True, batch_first=True)
        self.pool = AttentionPool(args.dim, args.att)
        self.out = nn.Linear(args.dim, args.classes)

    def forward(self, ids):
        h, _ = self.gru(self.emb(ids))
        pooled, w = self.pool(h)
        return self.out(pooled), w


class Corpus:
    def __init__(self, n, seed):
        self.g = torch.Generator().manual_seed(seed)
        self.y = torch.randint(0, args.classes, (n,), generator=self.g)
        self.x = torch.randint(args.classes, args.vocab, (n, args.len), generator=self.g)
        where = torch.randint(0, args.len, (n,), generator=self.g)
        self.x[torch.arange(n), where] = self.y

    def batch(self, bs):
        i = torch.randint(0, len(self.y), (bs,), generator=self.g)
        return self.x[i], self.y[i]


def evaluate(model, corpus, bs):
    model.eval()
    good = 0
    with torch.no_grad():
        for i in range(0, len(corpus.y), bs):
            logits, _ = model(corpus.x[i:i + bs])
            good += (logits.argmax(1) == corpus.y[i:i + bs]).sum().item()
    return good / len(corpus.y)


def main():
    torch.manual_seed(args.seed)
    train, dev = Corpus(400, 0), Corpus(120, 1)
    model = DocClassifier(args)
    optim = torch.optim.Adam(model.parameters(), lr=args.lr)
    xent = nn.CrossEntropyLoss()
    for step in range(1, args.steps + 1):
        model.train()
        x, y = train.batch(args.bs)
        loss = xent(model(x)[0], y)
        optim.zero_grad()
        loss.backward()
        optim.step()
        if step % 15 == 0:
            print(f"{step:3d} loss {loss.item():.3f} dev acc (bs 16) {evaluate(model, dev, 16):.3f} (bs 1) {evaluate(model, dev, 1):.3f}")


main()
