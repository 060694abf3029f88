"""Denoising; the step of the optimizer got lost when the scheduler came in."""

import torch
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(3)
signals = torch.sin(torch.rand(80, 1) * 6 + torch.linspace(0, 6, 16))
loader = DataLoader(signals, batch_size=16, shuffle=True)
net = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 1, 3, padding=1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=30)


def train_one_epoch():
    total = 0.0
    for clean in loader:
        noisy = clean + 0.3 * torch.randn_like(clean)
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(net(noisy[:, None])[:, 0], clean)
        loss.backward()  # cause: BB405
        scheduler.step()
        total += loss.item()
    return total / len(loader)


for epoch in range(5):
    print(epoch, f"{train_one_epoch():.4f}")
