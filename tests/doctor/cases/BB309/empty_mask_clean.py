"""Detection head: boxes are regressed only where an object is."""

import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(12, 24), nn.ReLU())
        self.objectness, self.box = nn.Linear(24, 1), nn.Linear(24, 4)

    def forward(self, x):
        h = self.trunk(x)
        return self.objectness(h).squeeze(-1), self.box(h)


def losses(objectness, box, has_object, true_box):
    object_loss = nn.functional.binary_cross_entropy_with_logits(objectness, has_object.float())
    distance = (box - true_box).abs().sum(-1)
    box_loss = (distance * has_object).sum() / has_object.sum().clamp(min=1)
    return object_loss + box_loss


torch.manual_seed(0)
detector = Detector()
optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
for step in range(6):
    x, true_box = torch.randn(6, 12), torch.rand(6, 4)
    has_object = torch.rand(6) < (0.5 if step != 2 else 0.0)
    loss = losses(*detector(x), has_object, true_box)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
