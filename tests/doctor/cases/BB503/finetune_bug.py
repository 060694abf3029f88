"""Fine-tune a small encoder for pair classification, in bfloat16 to save memory."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=1e-5)
parser.add_argument("--steps", type=int, default=10)
args = parser.parse_args([])


class Encoder(nn.Module):
    def __init__(self, vocab=60, dim=32):
        super().__init__()
        self.tokens = nn.Embedding(vocab, dim)
        self.block = nn.TransformerEncoderLayer(dim, 2, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(dim, 2)

    def forward(self, ids):
        return self.head(self.block(self.tokens(ids)).mean(1))


torch.manual_seed(0)
model = Encoder().to(torch.bfloat16)  # cause: BB503
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01)
for step in range(args.steps):
    ids = torch.randint(60, (16, 8))
    labels = (ids[:, 0] < ids[:, 1]).long()
    logits = model(ids)
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 3 == 0:
        print(f"{step:3d} loss {loss.item():.4f}")
