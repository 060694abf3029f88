"""A classifier of noisy curves, augmented on the fly."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Curves(Dataset):
    def __init__(self, n=48, length=16, noise=0.1):
        self.rng = np.random.default_rng(7)  # cause: BB101
        phase = np.linspace(0, 3, n)[:, None]
        self.x = np.sin(phase + np.arange(length) / 3).astype(np.float32)
        self.y = (phase[:, 0] > 1.5).astype(np.int64)
        self.noise = noise

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        jitter = self.rng.normal(0, self.noise, self.x[i].shape)
        return torch.from_numpy(self.x[i] + jitter.astype(np.float32)), int(self.y[i])


torch.manual_seed(1)
loader = DataLoader(Curves(), batch_size=8, shuffle=True, num_workers=2)
model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
criterion = nn.CrossEntropyLoss()
for epoch in range(2):
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch}: {total / len(loader):.6f}")
