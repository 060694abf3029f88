"""Ridge-like regularization written by hand."""

import torch
from torch import nn


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(4, 32)
        self.l2 = nn.Linear(32, 1)

    def forward(self, x):
        return self.l2(torch.tanh(self.l1(x)))

    def penalty(self):
        total = 0
        for w in self.parameters():
            total = total + w.data.pow(2).sum()  # cause: BB307
        return total


torch.manual_seed(0)
model = Regressor()
x = torch.randn(64, 4)
y = x[:, :1].sin()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for epoch in range(10):
    optimizer.zero_grad()
    loss = ((model(x) - y) ** 2).mean() + 1e-3 * model.penalty()
    loss.backward()
    optimizer.step()
print(f"final {loss.item():.5f}")
