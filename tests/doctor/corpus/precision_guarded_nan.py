"""NaN that do no harm: a guard that skips a batch now and then, missing labels, rows without anything to attend to."""

import math

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
skipped = 0
for step in range(12):  # labels are missing now and then, and a whole batch is broken every fourth time
    x = torch.randn(8, 5)
    if step % 4 == 2:
        x[0, 0] = float("nan")
    target = torch.stack([x[:, 1], x[:, 2] ** 2, x[:, 3] - x[:, 4]], 1)
    target[torch.rand(8, 3) < 0.3] = float("nan")
    known = ~torch.isnan(target)
    prediction = model(x)
    squared = (prediction - torch.nan_to_num(target)) ** 2
    loss = squared[known].mean()
    unmasked = torch.nan_to_num((prediction - target) ** 2).sum().item()  # the labels' NaN, for the log
    if torch.isnan(loss):
        skipped += 1
        continue
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if torch.isfinite(norm):
        optimizer.step()
    print(step, f"{loss.item():.4f} {unmasked:.3f}")
print("skipped", skipped)


class MaskedAttention(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, x, mask):
        scores = self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(x.size(-1))
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return self.out((weights.nan_to_num(0.0) @ self.v(x)).mean(1)).squeeze(1)


attention = MaskedAttention()
optimizer = torch.optim.SGD(attention.parameters(), lr=0.05)
for step in range(5):
    x = torch.randn(4, 5, 8)
    mask = torch.rand(4, 5, 5) > 0.4
    mask[:, 1] = False
    loss = F.mse_loss(attention(x, mask), x[:, :, 0].mean(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    f1 = (torch.zeros(()) / torch.zeros(())).item()  # no positives yet
    spread = attention(x[:1], mask[:1]).std()  # of one prediction: NaN, and only printed
    print(step, f"{loss.item():.4f} f1 {f1} {spread.item()}")
