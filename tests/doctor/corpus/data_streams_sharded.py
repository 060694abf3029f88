"""Streams over two workers: cut into shards in three ways, random without shards, and one constant sample to warm up."""

import itertools
import math

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

torch.manual_seed(0)


class Contiguous(IterableDataset):
    """Each worker has a range of its own; the labels go round, and so are the same in all of them."""

    def __init__(self, end):
        self.end = end

    def __iter__(self):
        info = get_worker_info()
        share = math.ceil(self.end / info.num_workers)
        for i in range(info.id * share, min((info.id + 1) * share, self.end)):
            yield torch.tensor([math.sin(i), math.cos(i), 1.0]), torch.tensor(float(i % 4))


class Configured(IterableDataset):
    """Is told its share by worker_init_fn."""

    def __init__(self, end):
        self.start, self.end = 0, end

    def __iter__(self):
        for i in range(self.start, self.end):
            yield torch.tensor([math.sin(i), math.cos(i), 0.5]), torch.tensor(float(i % 4))


def take_share(_):
    info = get_worker_info()
    size = info.dataset.end // info.num_workers
    info.dataset.start, info.dataset.end = info.id * size, (info.id + 1) * size


class RandomStream(IterableDataset):
    """Needs no shards: draws with replacement, each worker from its own seed; the time grid is common to all."""

    def __init__(self, num_samples):
        self.num_samples, self.grid = num_samples, torch.linspace(0, 1, 3)

    def __iter__(self):
        for _ in range(self.num_samples):
            yield torch.rand(3) + self.grid, torch.rand(())


class WarmUp(IterableDataset):
    """One constant sample, to measure how fast the loader is."""

    def __iter__(self):
        return itertools.repeat((torch.tensor([1.0, 2.0, 3.0]), torch.tensor(1.0)), 16)


model = nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for dataset, init in ((Contiguous(64), None), (Configured(64), take_share), (RandomStream(32), None), (WarmUp(), None)):
    for x, y in DataLoader(dataset, batch_size=8, num_workers=2, worker_init_fn=init):
        loss = nn.functional.mse_loss(model(x).squeeze(1), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{loss.item():.4f}")
