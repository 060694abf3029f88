"""Gradient accumulation over variable-length sequences: sum reduction, divided by the tokens of the whole window (ragged last window too)."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

ACCUM, PAD = 4, 0


def sentences(n, seed):
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        length = int(torch.randint(3, 12, (1,), generator=g))
        start = int(torch.randint(0, 15, (1,), generator=g))
        out.append((start + torch.arange(length) * 2) % 15 + 1)
    return out


def collate(seqs):
    ids = pad_sequence(seqs, batch_first=True, padding_value=PAD)
    return ids[:, :-1], ids[:, 1:]


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.rnn, self.out = nn.Embedding(16, 24, padding_idx=PAD), nn.GRU(24, 24, batch_first=True), nn.Linear(24, 16)

    def forward(self, x):
        return self.out(self.rnn(self.emb(x))[0])


def windows(loader, k):
    buf = []
    for b in loader:
        buf.append(b)
        if len(buf) == k:
            yield buf
            buf = []
    if buf:
        yield buf


def main():
    torch.manual_seed(0)
    loader = DataLoader(sentences(200, 0), 6, shuffle=True, collate_fn=collate)
    dev = collate(sentences(60, 1))
    model = LM()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(3):
        model.train()
        for win in windows(loader, ACCUM):
            n_tok = sum((y != PAD).sum() for _, y in win)
            opt.zero_grad(set_to_none=True)
            total = 0.0
            for x, y in win:
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=PAD, reduction="sum") / n_tok
                loss.backward()
                total += loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
        model.eval()
        with torch.no_grad():
            dl = F.cross_entropy(model(dev[0]).flatten(0, 1), dev[1].flatten(), ignore_index=PAD)
        print(f"epoch {epoch} train {total:.4f} dev {dl.item():.4f}")


if __name__ == "__main__":
    main()
