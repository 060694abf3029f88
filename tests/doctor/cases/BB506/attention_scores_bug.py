"""A small attention layer of our own, in float16 autocast with a scaler."""

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, dim=64):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.scale = dim**-0.5

    def forward(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = q @ k.transpose(-2, -1) * self.scale  # cause: BB506
        return (scores - scores.amax(-1, keepdim=True)).softmax(-1) @ v


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 64)
        self.attention = SelfAttention()
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.head((h + self.attention(h)).mean(1))


torch.manual_seed(0)
model = Classifier()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu")
for step in range(10):
    x = 250 * torch.randn(8, 5, 10)  # raw sensor values
    labels = x.mean((1, 2)).gt(0).long()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = nn.functional.cross_entropy(model(x), labels)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    print(step, f"{loss.item():.3f}", scaler.get_scale())
