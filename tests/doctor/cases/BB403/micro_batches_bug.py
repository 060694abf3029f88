"""A recurrent tagger; each batch is split in micro-batches that fit."""

import torch
import torch.nn.functional as F
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = nn.GRU(12, 16, batch_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids))[0])


def backward_micro(model, ids, tags, num_micro):
    total = 0.0
    for micro_ids, micro_tags in zip(ids.chunk(num_micro), tags.chunk(num_micro)):
        model.zero_grad()  # cause: BB403
        loss = F.cross_entropy(model(micro_ids).flatten(0, 1), micro_tags.flatten()) / num_micro
        loss.backward()
        total += loss.item()
    return total


def main():
    torch.manual_seed(4)
    tagger = Tagger()
    optimizer = torch.optim.SGD(tagger.parameters(), lr=0.3)
    for step in range(8):
        ids = torch.randint(30, (12, 7))
        tags = ids % 5
        loss = backward_micro(tagger, ids, tags, num_micro=3)
        nn.utils.clip_grad_norm_(tagger.parameters(), 1.0)
        optimizer.step()
        print(step, round(loss, 4))


main()
