"""Gradients of inputs beside those of parameters: adversarial training, and an image that is itself optimized."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(5):
    x, y = torch.randn(12, 10), torch.randint(3, (12,))
    x.requires_grad_(True)
    model.requires_grad_(False)
    F.cross_entropy(model(x), y).backward()
    adversarial = (x + 0.1 * x.grad.sign()).detach()
    model.requires_grad_(True)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(adversarial), y)
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
model.requires_grad_(False)
image = torch.zeros(1, 10, requires_grad=True)
dream = torch.optim.Adam([image], lr=0.1)
for step in range(5):
    dream.zero_grad()
    (-model(image)[0, 1] + 0.1 * image.pow(2).sum()).backward()
    dream.step()
print(f"{model(image)[0, 1].item():.4f}")
