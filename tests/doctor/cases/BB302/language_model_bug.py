"""A tiny character model with a causal transformer."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
text = "the quick brown fox jumps over the lazy dog " * 4
chars = sorted(set(text))
data = torch.tensor([chars.index(c) for c in text])
BLOCK, BATCH, WIDTH = 8, 4, 16


class TinyGPT(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.tok = nn.Embedding(vocab, WIDTH)
        self.pos = nn.Embedding(BLOCK, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, vocab)

    def forward(self, idx):
        mask = nn.Transformer.generate_square_subsequent_mask(idx.shape[1])
        h = self.tok(idx) + self.pos(torch.arange(idx.shape[1]))
        return self.head(self.block(h, src_mask=mask, is_causal=True))


def get_batch():
    starts = torch.randint(len(data) - BLOCK - 1, (BATCH,))
    x = torch.stack([data[s : s + BLOCK] for s in starts])
    y = torch.stack([data[s + 1 : s + BLOCK + 1] for s in starts])
    return x, y


model = TinyGPT(len(chars))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for it in range(6):
    x, y = get_batch()
    logits = model(x)
    probs = torch.softmax(logits, -1)  # cause: BB302
    loss = F.cross_entropy(probs.view(-1, len(chars)), y.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"iter {it}: {loss.item():.4f}")
