"""Next-word model in a class of its own with a training loop; the output layer shares the embedding."""

import torch
import torch.nn.functional as F
from torch import nn


class WordModel(nn.Module):
    def __init__(self, num_words, size, tie=True):
        super().__init__()
        self.wte = nn.Embedding(num_words, size)
        self.ff = nn.Sequential(nn.Linear(3 * size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.out = nn.Linear(size, num_words, bias=False)
        if tie:
            self.out.weight.data = self.wte.weight.data  # cause: BB208

    def forward(self, context):
        return self.out(self.ff(self.wte(context).flatten(1)))


class Experiment:
    def __init__(self):
        torch.manual_seed(11)
        self.corpus = torch.randint(25, (300,))
        self.model = WordModel(25, 8)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def batch(self, size=16):
        at = torch.randint(3, 300, (size,))
        context = torch.stack([self.corpus[at - 3], self.corpus[at - 2], self.corpus[at - 1]], dim=1)
        return context, self.corpus[at]

    def run(self, steps):
        for step in range(steps):
            context, word = self.batch()
            loss = F.cross_entropy(self.model(context), word)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            print(f"{step}: {loss.item():.4f}")


Experiment().run(7)
