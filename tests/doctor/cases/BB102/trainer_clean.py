"""A small trainer for language modeling, with gradient accumulation and a validation set, ready for several ranks."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class Tokens(Dataset):
    def __init__(self, text, block):
        vocabulary = sorted(set(text))
        self.ids = torch.tensor([vocabulary.index(c) for c in text])
        self.vocab_size, self.block = len(vocabulary), block

    def __len__(self):
        return (len(self.ids) - 1) // self.block

    def __getitem__(self, i):
        chunk = self.ids[i * self.block : (i + 1) * self.block + 1]
        return {"input_ids": chunk[:-1], "labels": chunk[1:]}


class Trainer:
    def __init__(self, train_set, eval_set, world_size=1, rank=0, accumulate=2):
        self.sampler = DistributedSampler(train_set, world_size, rank, seed=42, drop_last=True)
        self.train_loader = DataLoader(train_set, 4, sampler=self.sampler)
        self.eval_loader = DataLoader(eval_set, 4)
        self.model = nn.Sequential(nn.Embedding(train_set.vocab_size, 16), nn.Linear(16, train_set.vocab_size))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.accumulate = accumulate

    def loss_of(self, batch):
        return F.cross_entropy(self.model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

    def train_one_epoch(self, epoch):
        self.sampler.set_epoch(epoch)
        self.model.train()
        for i, batch in enumerate(self.train_loader):
            (self.loss_of(batch) / self.accumulate).backward()
            if (i + 1) % self.accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self):
        self.model.eval()
        return sum(self.loss_of(batch).item() for batch in self.eval_loader) / len(self.eval_loader)

    def fit(self, epochs):
        for epoch in range(epochs):
            self.train_one_epoch(epoch)
            print(f"epoch {epoch}: eval loss {self.evaluate():.4f}")


torch.manual_seed(1)
text = "the quick brown fox jumps over the lazy dog while the small cat sleeps in the warm sun " * 4
train_set, eval_set = Tokens(text[:260], 8), Tokens(text[260:], 8)
Trainer(train_set, eval_set).fit(epochs=2)
