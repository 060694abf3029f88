"""Semantic segmentation: the loss is computed over pixels, with logits flattened to (pixels, classes)."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(9)
NUM_CLASSES = 5


def unet(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, NUM_CLASSES, 1),
    )


def segmentation_loss(logits, mask):
    flat = logits.permute(0, 2, 3, 1).reshape(-1, NUM_CLASSES)
    return F.cross_entropy(flat, mask.view(-1))


net = unet(6)
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for it in range(6):
    image = torch.rand(4, 1, 12, 12)
    mask = (image[:, 0] * NUM_CLASSES).long().clamp(max=NUM_CLASSES - 1)
    loss = segmentation_loss(net(image), mask)
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(it, f"{loss.item():.4f}")
