"""Depth from images: the error is summed over pixels, at the rate of a mean, and ReLU layers die of it."""

import torch
from torch import nn

torch.manual_seed(4)
net = nn.Sequential(
    nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 1)
)
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
measure = nn.SmoothL1Loss(reduction="sum")  # cause: BB306
for step in range(20):
    image = torch.rand(8, 1, 10, 10)
    depth = 1 + image.roll(1, -1)
    loss = measure(net(image), depth)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 100.0)
    opt.step()
    print(step, f"{loss.item():.5g}")
