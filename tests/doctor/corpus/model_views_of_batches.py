"""Time-major code in the style of fairseq, capsules, multi-crop batches, ensembles in one call, rotary positions."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(4)


class TimeMajorAttention(nn.Module):
    def __init__(self, dim=16, heads=4):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.heads, self.dim = heads, dim // heads

    def forward(self, x):
        length, batch, dim = x.size()
        q, k, v = (
            f(x).contiguous().view(length, batch * self.heads, self.dim).transpose(0, 1)
            for f in (self.q, self.k, self.v)
        )
        a = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        return self.o(torch.bmm(a, v).transpose(0, 1).contiguous().view(length, batch, dim))


def rotate(x):
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack([-b, a], -1).reshape(x.shape)


class Capsules(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)

    def forward(self, image):
        u = self.conv(image).view(image.size(0), 2, 8, 6, 6).permute(0, 1, 3, 4, 2).reshape(image.size(0), -1, 8)
        return (u / u.norm(dim=-1, keepdim=True)).mean(1)


attention, capsules, encoder = TimeMajorAttention(), Capsules(), nn.Linear(12, 6)
members = nn.Linear(12, 3 * 6)
parameters = [p for m in (attention, capsules, encoder, members) for p in m.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-3)
for step in range(5):
    x = torch.randn(10, 4, 16)
    h = attention(rotate(x))
    crops = torch.randn(2, 8, 12)  # two views of eight images
    z = encoder(crops.reshape(-1, 12)).view(2, 8, 6)
    logits = z[0] @ z[1].t()
    votes = members(crops[0]).view(8, 3, 6).mean(1)
    loss = (
        h.square().mean() + F.cross_entropy(logits, torch.arange(8)) + capsules(torch.rand(8, 1, 8, 8)).square().mean()
    )
    loss = loss + F.cross_entropy(votes, torch.arange(8) % 6)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
