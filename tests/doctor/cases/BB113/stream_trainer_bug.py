"""Language model on a stream of text, trained by a Trainer that fetches its batches through a helper."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

CORPUS = "to be or not to be that is the question whether tis nobler in the mind to suffer " * 8
VOCABULARY = sorted(set(CORPUS))


class Chunks(IterableDataset):
    def __init__(self, text, length):
        self.text, self.length = text, length

    def __iter__(self):
        for start in itertools.count(0, self.length):
            piece = self.text[start : start + self.length + 1]
            if len(piece) <= self.length:
                return
            yield torch.tensor([VOCABULARY.index(c) for c in piece])


class CharModel(nn.Module):
    def __init__(self, vocab_size, width=24):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens):
        return self.head(self.gru(self.embedding(tokens))[0])


class Trainer:
    def __init__(self, model, loader, max_steps):
        self.model, self.loader, self.max_steps = model, loader, max_steps
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def get_batch(self):
        chunk = next(iter(self.loader))  # cause: BB113
        return chunk[:, :-1], chunk[:, 1:]

    def train(self):
        for step in range(1, self.max_steps + 1):
            tokens, targets = self.get_batch()
            loss = F.cross_entropy(self.model(tokens).transpose(1, 2), targets)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            print(f"step {step}/{self.max_steps} loss {loss.item():.4f}")


torch.manual_seed(0)
Trainer(CharModel(len(VOCABULARY)), DataLoader(Chunks(CORPUS, 12), batch_size=8), max_steps=10).train()
