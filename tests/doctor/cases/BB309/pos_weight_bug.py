"""Rare events: logistic model with a weight for the positives."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(400, 6)
y = (x[:, 0] + 0.3 * x[:, 1] > 1.2).float()
num_pos, num_neg = y.sum(), (1 - y).sum()
pos_weight = num_pos / num_neg  # cause: BB309
print(f"{int(num_pos)} of {len(y)} are positive")
criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
for epoch in range(2):
    for inputs, target in loader:
        loss = criterion(model(inputs).squeeze(1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, f"{loss.item():.4f}")
