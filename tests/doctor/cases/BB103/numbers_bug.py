"""Regression on a stream, read by two workers."""

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Readings(IterableDataset):
    def __init__(self, start, end):
        super().__init__()
        self.start, self.end = start, end

    def __iter__(self):  # cause: BB103
        for i in range(self.start, self.end):
            t = torch.tensor([i / 10.0])
            yield torch.cat([t.sin(), t.cos()]), (2 * t).sin()


torch.manual_seed(0)
loader = DataLoader(Readings(0, 64), batch_size=8, num_workers=2)
model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(2):
    seen, total = 0, 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        seen, total = seen + len(x), total + loss.item() * len(x)
    print(f"epoch {epoch}: {seen} readings, mse {total / seen:.5f}")
