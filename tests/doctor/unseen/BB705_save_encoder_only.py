"""Embedding model with a trained projection; export and evaluation from the exported file."""
import os
import tempfile

import torch
import torch.nn as nn
import torch.nn.functional as F


class TextTower(nn.Module):
    def __init__(self, vocab=60, dim=24):
        super().__init__()
        self.emb = nn.EmbeddingBag(vocab, dim)
        self.ff = nn.Sequential(nn.Linear(dim, dim), nn.GELU())

    def forward(self, ids):
        return self.ff(self.emb(ids))


class RetrievalModel(nn.Module):
    def __init__(self, dim=24, out=12):
        super().__init__()
        self.encoder = TextTower(dim=dim)
        self.projection = nn.Linear(dim, out)
        self.classifier = nn.Linear(out, 6)

    def embed(self, ids):
        return F.normalize(self.projection(self.encoder(ids)), dim=-1)

    def forward(self, ids):
        return self.classifier(self.embed(ids) * 8)


def docs(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 6, (n,), generator=g)
    own = torch.rand(n, 9, generator=g) < 0.5
    ids = torch.where(own, y[:, None] * 10 + torch.randint(0, 10, (n, 9), generator=g), torch.randint(0, 60, (n, 9), generator=g))
    return ids, y


def accuracy(model):
    model.eval()
    ids, y = docs(240, 9)
    with torch.no_grad():
        return (model(ids).argmax(1) == y).float().mean().item()


def save_pretrained(model, outdir):
    torch.save(model.encoder.state_dict(), os.path.join(outdir, "model.pt"))  # cause: BB705


def from_pretrained(outdir):
    model = RetrievalModel()
    model.encoder.load_state_dict(torch.load(os.path.join(outdir, "model.pt")))
    return model


def train(outdir, epochs=2):
    ids, y = docs(320, 0)
    model = RetrievalModel()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(epochs):
        model.train()
        for idx in torch.randperm(len(ids)).split(32):
            loss = F.cross_entropy(model(ids[idx]), y[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(f"epoch {epoch} loss {loss.item():.4f} acc {accuracy(model):.3f}")
    save_pretrained(model, outdir)


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as out:
        train(out)
        print("reloaded model acc", round(accuracy(from_pretrained(out)), 3))
