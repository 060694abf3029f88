"""Logistic regression; the three calls as they came to mind."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(128, 5)
y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0]) > 0).float()
model = nn.Linear(5, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

for step in range(15):
    batch = torch.randint(128, (32,))
    loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch]).squeeze(1), y[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 0:
        print(step, f"{loss.item():.4f}")
