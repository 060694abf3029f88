"""Logistic regression; labels come as -1 and 1 from an SVM file."""

import torch
from torch import nn

torch.manual_seed(0)
x = torch.randn(100, 7)
labels = torch.sign(x @ torch.randn(7))
model = nn.Linear(7, 1)
loss_fn = nn.BCEWithLogitsLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
for epoch in range(10):
    scores = model(x).squeeze(-1)
    loss = loss_fn(scores, (labels + 1) / 2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    accuracy = ((scores > 0) == (labels > 0)).float().mean()
    print(epoch, f"loss {loss.item():.4f} accuracy {accuracy.item():.3f}")
