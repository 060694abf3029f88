"""A target network that is set to a live state of the online one."""

import torch
from torch import nn

torch.manual_seed(1)


def build():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


m, t = build(), build()
live = m.state_dict()
o = torch.optim.Adam(m.parameters(), 0.05)
for e in range(12):
    x = torch.randn(8, 3)
    with torch.no_grad():
        y = t(x).squeeze(1) * 0.9 + x[:, 0]
    l = (m(x).squeeze(1) - y).pow(2).mean()
    o.zero_grad()
    l.backward()
    o.step()
    if e % 4 == 3:
        t.load_state_dict(live)
    if e % 4 == 1:
        t.load_state_dict(m.state_dict())
