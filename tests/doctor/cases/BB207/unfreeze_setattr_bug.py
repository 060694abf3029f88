"""Fine-tuning a speech encoder: all is frozen, then the last block is opened by the configuration."""

import torch
from torch import nn

CONFIG = {"open": ["blocks.2", "head"], "lr": 2e-3, "steps": 8}


class Encoder(nn.Module):
    def __init__(self, dim=12, classes=3):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(dim, dim), nn.GELU()) for _ in range(3)])
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def open_layers(model, config):
    model.requires_grad_(False)
    for name in config["open"]:
        module = model.get_submodule(name)
        module.requires_grad = True  # cause: BB207
    model.head.requires_grad_(True)


torch.manual_seed(2)
model = Encoder()
open_layers(model, CONFIG)
opt = torch.optim.SGD(model.parameters(), lr=CONFIG["lr"], momentum=0.9)
for step in range(CONFIG["steps"]):
    x = torch.randn(16, 12)
    loss = nn.functional.cross_entropy(model(x), (x[:, :3]).argmax(1))
    opt.zero_grad()
    loss.backward()
    opt.step()
print(f"loss {loss.item():.4f}")
