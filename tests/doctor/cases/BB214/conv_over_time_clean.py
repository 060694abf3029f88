"""Sensor windows (batch, time, channels) classified by a temporal convolution."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class TemporalConvNet(nn.Module):
    def __init__(self, channels=6, classes=4):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(channels, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3), nn.ReLU())
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        batch, time, channels = x.shape
        x = x.permute(0, 2, 1)
        return self.fc(self.conv(x).mean(-1))


windows = torch.randn(48, 20, 6)
labels = windows.mean(1)[:, :4].argmax(1)
loader = DataLoader(TensorDataset(windows, labels), batch_size=12, shuffle=True)
model = TemporalConvNet()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(3):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4f}")
