"""A classifier that is also rewarded for accuracy."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(1)
net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
inputs = torch.randn(60, 6)
classes = inputs[:, :3].argmax(1)
for epoch in range(6):
    logits = net(inputs)
    ce = F.cross_entropy(logits, classes)
    errors = (logits.argmax(dim=1) != classes).float().mean()  # cause: BB307
    loss = ce + 0.5 * errors
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(epoch, f"{ce.item():.4f} {errors.item():.4f}")
