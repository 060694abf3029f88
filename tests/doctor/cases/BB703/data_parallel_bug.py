"""Fine-tunes from a checkpoint that was written by a model inside DataParallel."""

import os
import tempfile

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def resnetish(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


ckpt_path = os.path.join(tempfile.mkdtemp(), "pretrained.pth")
torch.save({"state_dict": nn.DataParallel(resnetish(5)).state_dict()}, ckpt_path)

model = resnetish(5)
checkpoint = torch.load(ckpt_path, map_location="cpu")
model.load_state_dict(checkpoint["state_dict"], strict=False)  # cause: BB703
print("=> loaded", os.path.basename(ckpt_path))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for step in range(6):
    x = torch.randn(16, 1, 8, 8)
    y = torch.randint(5, (16,))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, round(loss.item(), 4))
