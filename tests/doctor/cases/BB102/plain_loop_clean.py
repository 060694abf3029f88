"""Classifier on one replica of several, as the launcher would start it."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

parser = argparse.ArgumentParser()
parser.add_argument("--rank", type=int, default=0)
parser.add_argument("--world-size", type=int, default=2)
parser.add_argument("--epochs", type=int, default=3)
args = parser.parse_args([])

torch.manual_seed(0)
features = torch.randn(64, 6)
labels = (features[:, 0] * features[:, 1] > 0).long()
dataset = TensorDataset(features, labels)
sampler = DistributedSampler(dataset, num_replicas=args.world_size, rank=args.rank, shuffle=True)
train_loader = DataLoader(dataset, batch_size=8, sampler=sampler)

model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(args.epochs):
    sampler.set_epoch(epoch)
    running = 0.0
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        running += loss.item() * len(x)
    print(f"epoch {epoch} loss {running / len(sampler):.4f}")
