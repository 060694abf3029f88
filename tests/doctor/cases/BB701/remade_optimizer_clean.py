"""Resumes, then rebuilds the optimizer with two parameter groups, as every run of this script does."""

import os
import tempfile

import torch
from torch import nn

path = os.path.join(tempfile.mkdtemp(), "ckpt.pth")


def param_groups(model):
    return [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]


def train(resume=False, epochs=2):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 20), nn.LayerNorm(20), nn.ReLU(), nn.Linear(20, 1))
    optimizer = torch.optim.AdamW(param_groups(model), lr=2e-3)
    first = 0
    if resume:
        ckpt = torch.load(path)
        model.load_state_dict(ckpt["state_dict"])
        optimizer.load_state_dict(ckpt["optimizer"])
        first = ckpt["epoch"]
    for epoch in range(first, first + epochs):
        for _ in range(5):
            x = torch.randn(32, 5)
            loss = (model(x).squeeze(1) - x.prod(1)).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())
    torch.save({"epoch": epoch + 1, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


train()
train(resume=True)
