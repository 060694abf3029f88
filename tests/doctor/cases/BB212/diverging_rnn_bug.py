"""Forecasting a time series that was not standardized, with a GRU."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(5)


class Forecaster(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.gru = nn.GRU(1, hidden, batch_first=True)
        self.linear = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.linear(self.gru(x)[0][:, -1])


t = torch.arange(200.0)
series = 500 + 300 * torch.sin(t / 10) + 20 * torch.randn(200)
x = torch.stack([series[i : i + 20] for i in range(160)]).unsqueeze(-1)
y = torch.stack([series[i + 20] for i in range(160)]).unsqueeze(-1)
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
model = Forecaster()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)  # cause: BB212
for epoch in range(2):
    for inputs, targets in loader:
        loss = (model(inputs) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} loss {loss.item():.4g}")
