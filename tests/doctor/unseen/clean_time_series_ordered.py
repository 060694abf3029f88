"""One-step forecasting: windows in temporal order, state carried over (stateful LSTM, truncated BPTT), no shuffling, chronological split."""
import math
import torch
import torch.nn as nn

torch.manual_seed(0)
T, BPTT, STREAMS = 800, 20, 4
t = torch.arange(T + 1).float()
series = torch.stack([torch.sin(2 * math.pi * t / p) + 0.3 * torch.sin(2 * math.pi * t / 7) for p in (19, 23, 29, 31)])
series += 0.05 * torch.randn(series.shape)
cut = int(0.8 * T) // BPTT * BPTT
mean, std = series[:, :cut].mean(), series[:, :cut].std()
series = (series - mean) / std


class Forecaster(nn.Module):
    def __init__(self, h=24):
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, h, batch_first=True), nn.Linear(h, 1)

    def forward(self, x, state=None):
        y, state = self.lstm(x, state)
        return self.out(y), state


def windows(lo, hi):
    for s in range(lo, hi - BPTT + 1, BPTT):
        yield series[:, s:s + BPTT, None], series[:, s + 1:s + BPTT + 1, None]


def detach(state):
    return tuple(s.detach() for s in state)


model = Forecaster()
opt = torch.optim.Adam(model.parameters(), lr=1e-2)
for epoch in range(2):
    model.train()
    state, total, n = None, 0.0, 0
    for x, y in windows(0, cut):
        pred, state = model(x, state)
        state = detach(state)
        loss = nn.functional.mse_loss(pred, y)
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        total, n = total + loss.item(), n + 1
    model.eval()
    with torch.no_grad():
        errs = []
        for x, y in windows(cut, T):
            pred, state = model(x, state)
            errs.append(nn.functional.mse_loss(pred, y).item())
    print(f"epoch {epoch} train mse {total / n:.4f} future mse {sum(errs) / len(errs):.4f} (variance 1.0)")
