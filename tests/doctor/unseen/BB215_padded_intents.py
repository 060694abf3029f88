"""Intent classification: small Transformer over padded token sequences."""
import math
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

PAD = 0


def build_examples(n, seed):
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        length = int(torch.randint(3, 12, (1,), generator=g))
        ids = torch.randint(5, 40, (length,), generator=g)
        label = int(torch.randint(0, 4, (1,), generator=g))
        ids[int(torch.randint(0, length, (1,), generator=g))] = label + 1
        out.append((ids, label))
    return out


def collate(batch):
    ids = pad_sequence([b[0] for b in batch], batch_first=True, padding_value=PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": torch.tensor([b[1] for b in batch])}


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.dk = heads, dim // heads
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, mask):
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, self.dk).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.dk)
        scores = scores.masked_fill(mask[:, None, None, :] == 1, -1e9)  # cause: BB215
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, D))


class IntentModel(nn.Module):
    def __init__(self, vocab=40, dim=24, heads=2):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=PAD)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.attn, self.norm = SelfAttention(dim, heads), nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 4)

    def forward(self, input_ids, attention_mask):
        x = torch.cat([self.cls.expand(len(input_ids), -1, -1), self.emb(input_ids)], 1)
        mask = torch.cat([attention_mask.new_ones(len(input_ids), 1), attention_mask], 1)
        x = self.norm(x + self.attn(x, mask))
        return self.out(x[:, 0])


def main():
    torch.manual_seed(0)
    train = DataLoader(build_examples(320, 0), batch_size=32, shuffle=True, collate_fn=collate)
    dev = DataLoader(build_examples(96, 1), batch_size=32, collate_fn=collate)
    model = IntentModel()
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(4):
        model.train()
        for batch in train:
            labels = batch.pop("labels")
            loss = nn.functional.cross_entropy(model(**batch), labels)
            opt.zero_grad()
            loss.backward()
            opt.step()
        model.eval()
        hits = 0
        with torch.no_grad():
            for batch in dev:
                labels = batch.pop("labels")
                hits += (model(**batch).argmax(-1) == labels).sum().item()
        print(f"epoch {epoch} loss {loss.item():.3f} dev acc {hits / 96:.3f}")


main()
