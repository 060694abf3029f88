"""Blocks of convolution, normalization and ReLU, with values for BatchNorm from a paper with another activation."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def conv_block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv_block(1, 6), nn.MaxPool2d(2), conv_block(6, 8))
        self.classify = nn.Linear(8, 3)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.1)
                nn.init.constant_(module.bias, 0.1)

    def forward(self, x):
        return self.classify(self.features(x).mean((2, 3)))


model = Classifier()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
for step in range(8):
    images = torch.randn(8, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    loss = F.cross_entropy(logits.float(), (images.mean((1, 2, 3)) * 50).long() % 3)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    print(f"step {step}: {loss.item():.4f}")
