"""Mixed precision whose first scale is too large: the scaler skips steps, and gradients are cleared every time."""

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(3)
inputs = torch.randn(192, 6)
loader = DataLoader(TensorDataset(inputs, inputs[:, :1] * 40 - 20), batch_size=16, shuffle=True)
net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))
adam = torch.optim.Adam(net.parameters(), lr=5e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
skipped = 0
for epoch in range(2):
    for x, y in loader:
        adam.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            prediction = net(x)
        loss = mse_loss(prediction.float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(adam)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        before = scaler.get_scale()
        scaler.step(adam)
        scaler.update()
        skipped += scaler.get_scale() < before
    print(epoch, skipped, round(loss.item(), 3))
