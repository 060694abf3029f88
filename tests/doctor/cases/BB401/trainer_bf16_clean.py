"""A transformer on a copying task; the trainer runs in bfloat16 where it can."""

import torch
import torch.nn.functional as F
from torch import nn


class TinyTransformer(nn.Module):
    def __init__(self, vocabulary=12, width=16, length=8):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, ids):
        return self.output(self.encoder(self.tokens(ids) + self.positions))


class Trainer:
    def __init__(self, model, lr=1e-3, clip=1.0):
        self.model, self.clip = model, clip
        self.optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.1, total_iters=4)

    def training_step(self, ids):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(ids)
        return F.cross_entropy(logits.float().flatten(0, 1), ids.flatten())

    def fit(self, batches):
        self.model.train()
        for index, ids in enumerate(batches):
            loss = self.training_step(ids)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
            if index % 3 == 0:
                print(f"step {index} loss {loss.item():.4f} lr {self.scheduler.get_last_lr()[0]:.1e}")


torch.manual_seed(2)
Trainer(TinyTransformer()).fit([torch.randint(12, (8, 8)) for _ in range(10)])
