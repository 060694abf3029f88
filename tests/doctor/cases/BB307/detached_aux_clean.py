"""Multi-task: classification with an auxiliary head that predicts the rotation."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.label = nn.Linear(32, 3)
        self.rotation = nn.Linear(32, 4)

    def forward(self, x):
        h = self.trunk(x)
        return self.label(h), self.rotation(h)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--aux-weight", type=float, default=0.3)
    args = parser.parse_args([])
    torch.manual_seed(0)
    model = TwoHeads()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
    history = []
    for step in range(8):
        x = torch.randn(20, 10)
        label, rotation = torch.randint(3, (20,)), torch.randint(4, (20,))
        label_logits, rotation_logits = model(x)
        losses = {"label": F.cross_entropy(label_logits, label)}
        losses["rotation"] = F.cross_entropy(rotation_logits, rotation)
        loss = losses["label"] + args.aux_weight * losses["rotation"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    print(history[-1])


main()
