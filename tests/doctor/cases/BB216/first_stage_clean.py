"""A small convolutional network for images; the memory-hungry first stage is checkpointed."""

import argparse

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2))
        self.stage2 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2), nn.ReLU())
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x.requires_grad_()  # or reentrant checkpointing builds no graph
        x = cp.checkpoint(self.stage1, x, use_reentrant=True)
        x = cp.checkpoint(self.stage2, x, use_reentrant=True)
        return self.fc(x.mean((2, 3)))


def train(args):
    torch.manual_seed(args.seed)
    images, labels = torch.randn(32, 3, 12, 12), torch.randint(5, (32,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
    model = Net(args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(args.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {loss.item():.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--width", type=int, default=6)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=3)
    train(parser.parse_args([]))
