"""Gradients far apart, rightly: zero-initialized heads and adapters, LayerScale, sums over many tokens, clipping, Adam."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class LayerScale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.ff, self.gamma = nn.Linear(dim, dim), nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x):
        return x + self.gamma * torch.tanh(self.ff(x))


class LoRA(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.base, self.down, self.up = (
            nn.Linear(dim, dim),
            nn.Linear(dim, 2, bias=False),
            nn.Linear(2, dim, bias=False),
        )
        self.base.requires_grad_(False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Net(nn.Module):
    def __init__(self, dim=16):
        super().__init__()
        self.blocks = nn.ModuleList([*(LayerScale(dim) for _ in range(6)), LoRA(dim)])
        self.head = nn.Linear(dim, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class DeepTanh(nn.Module):
    def __init__(self, depth=6):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(depth))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight, gain=5 / 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x[:, :4]


net, plain, deep = Net(), Net(), DeepTanh()
adam = torch.optim.AdamW(net.parameters(), lr=1e-3)
sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
slow = torch.optim.SGD(deep.parameters(), lr=1e-5)
rnn, out = nn.GRU(1, 8, batch_first=True), nn.Linear(8, 1)
clipped = torch.optim.SGD([*rnn.parameters(), *out.parameters()], lr=0.01)
for step in range(10):
    x = torch.randn(32, 16)
    y = x[:, :4].argmax(1)
    for model, optimizer in ((net, adam), (plain, sgd), (deep, slow)):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    series = 500 + 300 * torch.sin(torch.arange(40.0).view(1, 40, 1) / 5)
    summed = (out(rnn(series[:, :-1] / 100)[0]) - series[:, 1:]).square().sum()
    clipped.zero_grad()
    summed.backward()
    nn.utils.clip_grad_norm_([*rnn.parameters(), *out.parameters()], 1.0)
    clipped.step()
    print(step, f"{loss.item():.4f} {summed.item():.1f}")
