"""checkpoint_sequential over a deep tower; a spectral feature extractor in front of it is fixed."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential

torch.manual_seed(4)


def tower(width, depth):
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.SiLU()]
    return nn.Sequential(*layers)


spectrum = nn.Linear(10, 20).requires_grad_(False)
body, head = tower(20, 4), nn.Linear(20, 2)
params = list(body.parameters()) + list(head.parameters())
optimizer = torch.optim.RMSprop(params, lr=1e-3)


def train_step(x, y):
    features = spectrum(x).cos()
    hidden = checkpoint_sequential(body, 2, features, use_reentrant=False)
    loss = F.cross_entropy(head(hidden), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


for i in range(8):
    x = torch.randn(24, 10)
    value = train_step(x, (x[:, 0] > 0).long())
    if i % 2 == 0:
        print(f"{i:3d} {value:.4f}")
