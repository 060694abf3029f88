"""A recurrent forecaster. Everything in bfloat16 by default: the target device has nothing else."""

import torch
from torch import nn

torch.manual_seed(2)


class Forecaster(nn.Module):
    def __init__(self, hidden=24):
        super().__init__()
        self.cell = nn.GRUCell(3, hidden)
        self.out = nn.Linear(hidden, 3)

    def forward(self, series):
        state = series.new_zeros(series.shape[0], self.cell.hidden_size)
        for step in series.unbind(1):
            state = self.cell(step, state)
        return self.out(state)


def main(steps=8, lr=2e-5):
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        series = torch.randn(16, 7, 3).cumsum(1)
        loss = nn.functional.l1_loss(model(series[:, :-1]), series[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, f"{loss.item():.3f}")
    torch.set_default_dtype(torch.float32)


main()
