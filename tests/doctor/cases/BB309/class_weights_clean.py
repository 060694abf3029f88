"""Imbalanced classes of defects, weighted cross entropy."""

import numpy as np
import torch
from torch import nn


def class_weights(labels, num_classes):
    counts = np.bincount(labels, minlength=num_classes)
    weights = counts.sum() / (num_classes * counts)
    return torch.tensor(weights, dtype=torch.float32)


class DefectNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.fc(self.features(x))


torch.manual_seed(0)
np.random.seed(0)
labels = np.random.choice(3, size=300, p=[0.8, 0.15, 0.05])
signals = torch.randn(300, 1, 12) + torch.from_numpy(labels).view(-1, 1, 1)
targets = torch.from_numpy(labels)
model = DefectNet(3)
criterion = nn.CrossEntropyLoss(weight=class_weights(labels, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for step in range(8):
    batch = torch.randint(300, (64,))
    loss = criterion(model(signals[batch]), targets[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
