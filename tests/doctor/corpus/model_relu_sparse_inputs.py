"""Bags of words with empty rows, online updates on one sample at a time, and a frozen random layer that is all zero."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(3)


class Words(nn.Module):
    def __init__(self, vocab=60):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(vocab, 4), nn.ReLU(), nn.Linear(4, 2))
        nn.init.constant_(self.net[0].bias, -0.01)
        self.mask = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).requires_grad_(False)
        self.mask[0].bias.fill_(-100.0)

    def forward(self, counts):
        h = self.net[:2](counts)
        return self.net[2](h + self.mask(h))


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, state):
        return self.out(F.relu(self.hidden(state)))


words, policy = Words(), Policy()
optimizer = torch.optim.SGD([*words.parameters(), *policy.parameters()], lr=0.1)
for step in range(18):
    counts = torch.zeros(8, 60)
    if step % 2:
        counts[torch.arange(8), torch.randint(60, (8,))] = 1.0
    loss = F.cross_entropy(words(counts), torch.randint(2, (8,)))
    state = torch.randn(1, 3).abs()
    loss = loss - torch.log_softmax(policy(state), -1)[0, step % 2] * 0.1
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
