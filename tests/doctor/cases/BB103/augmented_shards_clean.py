"""Images out of several shards, cropped at random, through a shuffle buffer of the project's own."""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class ShardReader(IterableDataset):
    def __init__(self, num_shards, per_shard):
        self.num_shards, self.per_shard = num_shards, per_shard

    def __iter__(self):
        info = get_worker_info()
        for shard in range(info.id, self.num_shards, info.num_workers):
            generator = torch.Generator().manual_seed(shard)
            for _ in range(self.per_shard):
                image = torch.rand(1, 8, 8, generator=generator)
                yield image, image.mean() * 10


class RandomCrop(IterableDataset):
    def __init__(self, source, size):
        self.source, self.size = source, size

    def __iter__(self):
        for image, target in self.source:
            top, left = random.randint(0, 8 - self.size), random.randint(0, 8 - self.size)
            image = image[:, top : top + self.size, left : left + self.size]
            yield image + 0.01 * torch.randn_like(image), target


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.out = nn.Linear(4, 1)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).mean((2, 3))).squeeze(1)


def train(epochs):
    loader = DataLoader(RandomCrop(ShardReader(4, 12), 6), batch_size=8, num_workers=2, prefetch_factor=2)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for epoch in range(epochs):
        for images, targets in loader:
            loss = nn.functional.smooth_l1_loss(net(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("epoch", epoch, "loss", f"{loss.item():.4f}")


torch.manual_seed(0)
train(1)
