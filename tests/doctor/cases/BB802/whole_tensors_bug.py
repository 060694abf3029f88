"""Tabular classifier on tensors that fit into memory."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
features = torch.randn(120, 8)
target = (features[:, 0] * features[:, 1] > 0).long()
x_train, x_val = features[:90], features[90:]
y_train, y_val = target[:90], target[90:]

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.4), nn.Linear(32, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
best = 0.0
for epoch in range(4):
    for index in torch.randperm(90).split(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x_train[index]), y_train[index])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        correct = model(x_val).argmax(1) == y_val  # cause: BB802
    best = max(best, correct.float().mean().item())
    print(f"{epoch} loss {loss.item():.3f} best {best:.3f}")
