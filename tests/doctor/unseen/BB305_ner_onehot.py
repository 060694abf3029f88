"""Token classification with smoothed one-hot labels (NER)."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

N_TAGS, T, VOCAB = 5, 8, 30


class NERModel(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim)
        self.conv = nn.Conv1d(dim, dim, 3, padding=1)
        self.tag = nn.Linear(dim, N_TAGS)

    def forward(self, ids):
        h = F.gelu(self.conv(self.emb(ids).transpose(1, 2))).transpose(1, 2)
        return self.tag(h)  # (B, T, C)


def smooth(labels, eps=0.05):
    onehot = F.one_hot(labels, N_TAGS).float()
    return onehot * (1 - eps) + eps / N_TAGS


def sentences(n, seed):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (n, T), generator=g)
    tags = torch.where(ids < 15, torch.zeros_like(ids), (ids * 7) % 4 + 1)
    return TensorDataset(ids, tags)


class Meter:
    def __init__(self):
        self.sum = self.n = 0

    def update(self, v, n=1):
        self.sum += v * n
        self.n += n

    @property
    def avg(self):
        return self.sum / max(self.n, 1)


def main():
    torch.manual_seed(0)
    train_dl, dev_dl = DataLoader(sentences(256, 0), 16, shuffle=True), DataLoader(sentences(64, 1), 64)
    model = NERModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for epoch in range(3):
        meter = Meter()
        model.train()
        for ids, tags in train_dl:
            logits = model(ids)
            loss = F.cross_entropy(logits, smooth(tags))  # cause: BB305
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            meter.update(loss.item(), len(ids))
        model.eval()
        acc = Meter()
        with torch.no_grad():
            for ids, tags in dev_dl:
                acc.update((model(ids).argmax(-1) == tags).float().mean().item(), len(ids))
        print(f"epoch {epoch} loss {meter.avg:.4f} dev token acc {acc.avg:.4f}")


if __name__ == "__main__":
    main()
