"""Time comes first, rightly: a collate function, a transposition, chunks of text, and attention among the samples."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.gru, self.mix = nn.GRU(8, 8), nn.MultiheadAttention(8, 2)
        self.out = nn.Linear(8, 20)

    def forward(self, ids, pooled=False):
        h, _ = self.gru(self.embed(ids))
        if not pooled:
            return self.out(h)
        h = h[-1].unsqueeze(1)
        return self.out((h + self.mix(h, h, h)[0]).squeeze(1))


class BagClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.out = nn.Linear(8, 1), nn.Linear(8, 2)

    def forward(self, bag):
        return self.out((self.score(bag).softmax(dim=0) * bag).sum(0, keepdim=True))


def collate(items):
    lengths = [len(item) for item in items]
    return pad_sequence(items), lengths


model, bags = Model(), BagClassifier()
optimizer = torch.optim.Adam([*model.parameters(), *bags.parameters()], lr=1e-2)
ragged = DataLoader([torch.randint(20, (n,)) for n in (3, 4, 5, 6) * 3], batch_size=4, collate_fn=collate)
even = DataLoader(TensorDataset(torch.randint(20, (24, 5))), batch_size=8)
text = torch.randint(20, (31, 4))
for epoch in range(2):
    for (ids, _), (rows,) in zip(ragged, even):
        loss = F.cross_entropy(model(ids[:-1]).flatten(0, 1), ids[1:].flatten())
        loss = loss + F.cross_entropy(model(rows.t(), pooled=True), rows[:, 0])
        for start in range(0, 30, 10):
            chunk, target = text[start : start + 10], text[start + 1 : start + 11]
            loss = loss + F.cross_entropy(model(chunk).view(-1, 20), target.reshape(-1))
        loss = loss + F.cross_entropy(bags(model.embed(rows[0])), rows[:1, 0] % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, f"{loss.item():.4f}")
