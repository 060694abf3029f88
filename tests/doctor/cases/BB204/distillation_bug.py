"""Distillation: a small student learns from a teacher that was trained in the same script."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


def network(width):
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


def batch(size):
    images = torch.randn(size, 1, 8, 8) + 0.5
    return images, (images.mean((1, 2, 3)) * 20).long() % 4


def fit(model, steps, lr, teacher=None, temperature=2.0):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        images, labels = batch(16)
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            with torch.no_grad():
                soft = F.softmax(teacher(images) / temperature, dim=1)
            loss = loss + F.kl_div(F.log_softmax(logits / temperature, dim=1), soft, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"last loss {loss.item():.4f}")
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args([])
    torch.manual_seed(3)
    teacher = fit(network(12), 5, 1e-2)
    teacher.requires_grad_(False)  # cause: BB204
    fit(network(4), args.steps, 1e-2, teacher=teacher)


main()
