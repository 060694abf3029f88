"""Attention pooling over the words of a sentence, written by hand, in a trainer with gradient accumulation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Sentences(Dataset):
    def __init__(self, n):
        self.ids = torch.randint(40, (n, 6))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"ids": self.ids[i], "label": (self.ids[i] > 30).any().long()}


class Pooler(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 10)
        self.query = nn.Linear(10, 1)
        self.out = nn.Linear(10, 2)

    def forward(self, ids):
        h = self.embed(ids)
        weights = torch.softmax(self.query(h).squeeze(-1), dim=1)
        return self.out((weights.unsqueeze(-1) * h).sum(1))


class Trainer:
    def __init__(self, model, accumulate=2):
        self.model, self.accumulate = model, accumulate
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def train(self, loader, epochs):
        for epoch in range(epochs):
            for i, batch in enumerate(loader, 1):
                loss = F.cross_entropy(self.model(batch["ids"]), batch["label"]) / self.accumulate
                loss.backward()
                if i % self.accumulate == 0:
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            print(epoch, f"{loss.item() * self.accumulate:.4f}")


torch.manual_seed(2)
Trainer(Pooler()).train(DataLoader(Sentences(64), batch_size=8, shuffle=True), 2)
