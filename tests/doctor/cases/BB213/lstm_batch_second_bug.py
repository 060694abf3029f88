"""Activity recognition from accelerometer windows with a two-layer LSTM."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class ActivityNet(nn.Module):
    def __init__(self, channels=3, hidden=12, classes=4):
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden)  # cause: BB213
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.head(out[:, -1])


windows = torch.randn(64, 10, 3)
labels = windows.mean(1).abs().argmax(1)
loader = DataLoader(TensorDataset(windows, labels), batch_size=16, shuffle=True)
model = ActivityNet()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(2):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
