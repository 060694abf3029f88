"""Early stopping on a validation split; the best weights are put back at the end."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x = torch.randn(96, 12)
y = (x[:, 0] * x[:, 1] > 0).long()
x_train, y_train, x_val, y_val = x[:64], y[:64], x[64:], y[64:]

model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
best_loss, best_state, patience, bad = float("inf"), None, 4, 0

for epoch in range(30):
    model.train()
    for idx in torch.randperm(64).split(16):
        optimizer.zero_grad()
        F.cross_entropy(model(x_train[idx]), y_train[idx]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = F.cross_entropy(model(x_val), y_val).item()
    if val_loss < best_loss:
        best_loss, bad = val_loss, 0
        best_state = copy.deepcopy(model.state_dict())
    else:
        bad += 1
        if bad >= patience:
            print(f"early stop at epoch {epoch}")
            break

model.load_state_dict(best_state)
with torch.no_grad():
    print(f"best {best_loss:.4f}, restored {F.cross_entropy(model(x_val), y_val).item():.4f}")
