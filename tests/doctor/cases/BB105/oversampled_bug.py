"""Rare positives are repeated to balance the classes, and the table is split."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

rng = np.random.default_rng(0)
torch.manual_seed(0)


class Table(Dataset):
    def __init__(self, features, labels):
        self.features = torch.as_tensor(features, dtype=torch.float32)
        self.labels = torch.as_tensor(labels, dtype=torch.float32)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.features[i], self.labels[i]


def oversample(features, labels, times):
    positives = np.flatnonzero(labels == 1)
    order = rng.permutation(np.concatenate([np.arange(len(labels)), np.repeat(positives, times)]))
    return features[order], labels[order]


features = rng.normal(size=(90, 7))
labels = (features[:, 0] + features[:, 1] > 1.6).astype(np.int64)
features, labels = oversample(features, labels, times=6)
split = int(0.75 * len(labels))
train_loader = DataLoader(Table(features[:split], labels[:split]), batch_size=16, shuffle=True)
valid_loader = DataLoader(Table(features[split:], labels[split:]), batch_size=16)  # cause: BB105
net = nn.Sequential(nn.Linear(7, 24), nn.ReLU(), nn.Linear(24, 1), nn.Flatten(0))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(3):
    for f, t in train_loader:
        optimizer.zero_grad()
        loss = criterion(net(f), t)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = [criterion(net(f), t).item() for f, t in valid_loader]
    print(epoch, f"{sum(losses) / len(losses):.4f}")
