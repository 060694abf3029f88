"""A vision transformer: the patches of a convolution become tokens; gradients are accumulated."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class VisionTransformer(nn.Module):
    def __init__(self, dim=16, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.block = nn.TransformerEncoderLayer(dim, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        x = self.patches(images)
        B, C, H, W = x.shape
        tokens = x.reshape(B, H * W, C)  # cause: BB214
        return self.head(self.block(tokens).mean(dim=1))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args([])
    torch.manual_seed(0)
    model = VisionTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(1, args.steps + 1):
        images = torch.rand(4, 3, 32, 32)
        loss = F.cross_entropy(model(images), images.mean((2, 3)).argmax(1)) / args.accumulate
        loss.backward()
        if step % args.accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            print(step, f"{loss.item() * args.accumulate:.4f}")


main()
