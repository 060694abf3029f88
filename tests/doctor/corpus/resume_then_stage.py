"""A training that is resumed as it should be, and a second stage after it."""

import io

import torch
from torch import nn


def fit(net, opt, n):
    for _ in range(n):
        x = torch.randn(8, 4)
        loss = (net(x).squeeze(-1) - x.sum(-1)).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()


net = nn.Linear(4, 1)
opt = torch.optim.Adam(net.parameters(), 1e-2)
fit(net, opt, 4)
f = io.BytesIO()
torch.save({"model": net.state_dict(), "o": opt.state_dict(), "epoch": 4}, f)
f.seek(0)
net = nn.Linear(4, 1)
opt = torch.optim.Adam(net.parameters(), 1e-2)
c = torch.load(f)
net.load_state_dict(c["model"])
opt.load_state_dict(c["o"])
first = c["epoch"]
for epoch in range(first, 8):
    fit(net, opt, 2)
opt = torch.optim.Adam(net.parameters(), 1e-4)
for epoch in range(3):
    fit(net, opt, 2)
