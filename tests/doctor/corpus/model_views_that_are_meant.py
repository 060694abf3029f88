"""Views that split, merge and group: heads, patches, stacked frames, chunks of text, states of RNNs, channels shuffled."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Mixed(nn.Module):
    def __init__(self, dim=16, heads=4):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.stack = nn.Linear(2 * dim, dim)
        self.gru = nn.GRU(dim, dim, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        h = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(h.transpose(1, 2).reshape(b, t, d))
        x = self.stack(x.reshape(b, t // 2, 2 * d))  # two frames side by side
        _, state = self.gru(x)
        last = state.view(2, 2, b, d)[-1]  # the two directions of the last layer
        return last.transpose(0, 1).reshape(b, 2 * d)


class Patches(nn.Module):
    def __init__(self, channels=4, patch=2):
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, 8)
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=2)

    def forward(self, x):
        b, c, h, w = x.shape
        p = self.patch
        x = self.conv(x).view(b, 2, c, h, w).transpose(1, 2).reshape(b, 2 * c, h, w)[:, :c]  # shuffled channels
        x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
        return self.embed(x).mean(1)


mixed, patches = Mixed(), Patches()
classify = nn.Linear(40, 16)
optimizer = torch.optim.Adam([*mixed.parameters(), *patches.parameters(), *classify.parameters()], lr=1e-3)
text = torch.randn(8 * 16, 16)
for step in range(5):
    chunks = text.view(16, 8, 16)  # (128, 16): 16 chunks of 8
    again = chunks.reshape(8, 16, 16)  # 8 chunks of 16
    images = torch.randn(16, 4 * 64).view(16, 4, 8, 8)
    logits = classify(torch.cat([mixed(chunks), patches(images)], 1))
    logits = logits.view(4, 4, 16).reshape(-1, 16)
    loss = F.cross_entropy(logits, torch.arange(16)) + mixed(again).square().mean()
    pairs = torch.randn(16, 8).view(8, 2, 8).flatten(1)  # (16, 8) to (8, 16): neighbors as pairs
    grouped = torch.randn(16, 8).view(8, 16)
    loss = loss + (classify.weight[:8, :16] * (pairs + grouped)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
