"""Multi-head self-attention written by hand, in a small sequence regressor."""

import argparse
import math

import torch
from torch import nn


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.dim_head = heads, dim // heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def split(self, x):
        b, n, _ = x.shape
        return x.reshape(b, self.heads, n, self.dim_head)  # cause: BB214

    def forward(self, x):
        q, k, v = (self.split(t) for t in self.to_qkv(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.dim_head)
        out = scores.softmax(dim=-1) @ v
        return self.to_out(out.transpose(1, 2).flatten(2))


class Regressor(nn.Module):
    def __init__(self, features=3, dim=16):
        super().__init__()
        self.embed, self.attend, self.head = nn.Linear(features, dim), SelfAttention(dim, 4), nn.Linear(dim, 1)

    def forward(self, x):
        h = self.embed(x)
        return self.head((h + self.attend(h)).mean(1)).squeeze(-1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args([])
    torch.manual_seed(7)
    model = Regressor()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(args.steps):
        x = torch.randn(8, 11, 3)
        y = (x[:, :, 0] * x[:, :, 1]).sum(1)
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, f"{loss.item():.4f}")


main()
