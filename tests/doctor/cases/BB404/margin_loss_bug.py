"""Embeddings with a cosine margin; the class centers belong to the loss."""

import torch
import torch.nn.functional as F
from torch import nn


class CosFace(nn.Module):
    def __init__(self, width, classes, margin=0.2, scale=8.0):
        super().__init__()
        self.centers = nn.Parameter(torch.randn(classes, width))
        self.margin, self.scale = margin, scale

    def forward(self, embeddings, labels):
        cosines = F.normalize(embeddings) @ F.normalize(self.centers).t()
        logits = self.scale * (cosines - self.margin * F.one_hot(labels, len(self.centers)))
        return F.cross_entropy(logits, labels)


def main(steps=10):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.PReLU(), nn.Linear(32, 8))
    criterion = CosFace(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)  # cause: BB404
    prototypes = torch.randn(4, 6)
    for step in range(steps):
        labels = torch.randint(4, (32,))
        images = prototypes[labels] + 0.3 * torch.randn(32, 6)
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, round(loss.item(), 4))


main()
