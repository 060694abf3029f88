"""A small transformer decoder with clipping and warm-up."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--clip", type=float, default=0.5)
parser.add_argument("--warmup", type=int, default=4)
args = parser.parse_args([])

torch.manual_seed(2)
embedding = nn.Embedding(16, 16)
block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
output = nn.Linear(16, 16)
parameters = [p for module in (embedding, block, output) for p in module.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=3e-3)
warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / args.warmup))
mask = nn.Transformer.generate_square_subsequent_mask(7)

for step in range(10):
    ids = (torch.arange(8) * 3 + torch.randint(16, (4, 1))) % 16
    optimizer.zero_grad(set_to_none=True)
    hidden = block(embedding(ids[:, :-1]), src_mask=mask, is_causal=True)
    loss = F.cross_entropy(output(hidden).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, args.clip)
    optimizer.step()
    warmup.step()
    print(f"{step} loss {loss.item():.4f} norm {norm.item():.3f}")
