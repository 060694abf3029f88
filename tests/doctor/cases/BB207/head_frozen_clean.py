"""Prompt tuning: learned vectors before the tokens; the classifier on top should be trained by the optimizer."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(2)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.head = nn.Linear(12, 2)

    def forward(self, ids, prompt):
        tokens = torch.cat([prompt.expand(len(ids), -1, -1), self.embed(ids)], 1)
        return self.head(self.gru(tokens)[0][:, -1])


class Experiment:
    def __init__(self):
        self.model = Classifier()
        for p in self.model.parameters():
            p.requires_grad = False
        self.model.head = nn.Linear(12, 3)
        self.prompt = torch.zeros(1, 2, 12, requires_grad=True)
        self.optimizer = torch.optim.Adam(self.model.head.parameters(), lr=1e-2)

    def run(self, steps):
        for step in range(steps):
            ids = torch.randint(20, (16, 5))
            loss = F.cross_entropy(self.model(ids, self.prompt), ids[:, 0] % 3)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                self.prompt -= 0.1 * self.prompt.grad
            self.prompt.grad = None
            print(step, f"{loss.item():.4f}")


Experiment().run(5)
