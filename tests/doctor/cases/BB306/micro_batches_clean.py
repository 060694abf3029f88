"""A language-model-like trainer that draws micro-batches by itself, with mixed precision."""

import torch
import torch.nn.functional as F
from torch import nn


class Trainer:
    def __init__(self, model, micro_batch=4, grad_accum=3, lr=3e-3):
        self.model, self.micro_batch, self.grad_accum = model, micro_batch, grad_accum
        self.opt = torch.optim.AdamW(model.parameters(), lr=lr)

    def get_batch(self):
        tokens = torch.randint(20, (self.micro_batch, 9))
        return tokens[:, :-1], tokens[:, 1:]

    def step(self):
        total = 0.0
        for _ in range(self.grad_accum):
            x, y = self.get_batch()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = self.model(x)
                loss = F.cross_entropy(logits.flatten(0, 1).float(), y.flatten())
            loss = loss / self.grad_accum
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.opt.step()
        self.opt.zero_grad(set_to_none=True)
        return total


torch.manual_seed(0)
trainer = Trainer(nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 20)))
for it in range(5):
    print(it, f"{trainer.step():.4f}")
