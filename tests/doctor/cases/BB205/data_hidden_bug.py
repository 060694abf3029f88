"""Truncated backpropagation through time: the hidden state is carried from chunk to chunk."""

import torch
from torch import nn

torch.manual_seed(2)


class Forecaster(nn.Module):
    def __init__(self, size=12):
        super().__init__()
        self.rnn = nn.GRU(1, size, batch_first=True)
        self.norm = nn.LayerNorm(size)
        self.out = nn.Linear(size, 1)

    def forward(self, x, state=None):
        y, state = self.rnn(x, state)
        return self.out(self.norm(y.data)), state  # cause: BB205


def train(epochs=2, chunk=10):
    series = torch.sin(torch.arange(4 * 51).view(4, 51) / 4.0).unsqueeze(-1)
    model = Forecaster()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        state, total = None, 0.0
        for start in range(0, 50, chunk):
            x, y = series[:, start : start + chunk], series[:, start + 1 : start + chunk + 1]
            prediction, state = model(x, state)
            state = state.detach()
            loss = nn.functional.mse_loss(prediction, y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}: {total / 5:.5f}")


train()
