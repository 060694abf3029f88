"""next(iter(loader)) where it is right: random batches, one kept batch, a fixed one to look at, a loader of one batch."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

torch.manual_seed(0)
x = torch.randn(48, 4)
dataset = TensorDataset(x, x.sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


def step(batch):
    loss = F.mse_loss(model(batch[0]), batch[1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


shuffled = DataLoader(dataset, batch_size=8, shuffle=True)
print([f"{step(next(iter(shuffled))):.3f}" for _ in range(5)])
with_replacement = DataLoader(dataset, batch_size=8, sampler=RandomSampler(dataset, replacement=True, num_samples=8))
print([f"{step(next(iter(with_replacement))):.3f}" for _ in range(5)])
whole = DataLoader(dataset, batch_size=48)
for _ in range(5):
    step(next(iter(whole)))
ordered = DataLoader(dataset, batch_size=8)
kept = next(iter(ordered))
for _ in range(5):
    step(kept)
for batch in shuffled:  # after each step the same samples are looked at
    step(batch)
    with torch.no_grad():
        inputs, _ = next(iter(ordered))
        print(f"{model(inputs).mean():.3f}")
for _ in range(4):  # does it overfit? Then the rest works as well
    for _ in range(4):
        step(next(iter(ordered)))
for _ in range(4):
    for batch in itertools.islice(ordered, 2):
        step(batch)
for _ in range(4):
    for batch in ordered:
        step(batch)
        break
endless = itertools.chain.from_iterable(itertools.repeat(ordered))
for _ in range(14):
    step(next(endless))
batches = iter(ordered)
for _ in range(20):
    batch = next(batches, None)
    if batch is None:
        batches = iter(ordered)
        batch = next(batches)
    step(batch)
