"""LSTM forecaster; targets come as a column from the window builder, the head is flattened in the model."""

import torch
from torch import nn

torch.manual_seed(0)


def windows(series, width):
    x = torch.stack([series[i : i + width] for i in range(len(series) - width)])
    y = series[width:].unsqueeze(1)
    return x.unsqueeze(-1), y


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.head(out[:, -1]).flatten()


def huber(error, delta=1.0):
    size = error.abs()
    return torch.where(size < delta, 0.5 * size**2, delta * (size - 0.5 * delta)).mean()


series = torch.sin(torch.arange(80) / 5.0) + 0.05 * torch.randn(80)
x, y = windows(series, 12)
model = Forecaster()
opt = torch.optim.RMSprop(model.parameters(), lr=2e-3)
for step in range(8):
    batch = torch.randperm(len(x))[:24]
    error = y[batch] - model(x[batch])  # cause: BB301
    loss = huber(error)
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(step, f"{loss.item():.4f}")
