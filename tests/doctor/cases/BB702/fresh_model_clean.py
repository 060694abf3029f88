"""The best weights go into a new model for the final test."""

import torch
from torch import nn

torch.manual_seed(1)


def build():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


m = build()
o = torch.optim.Adam(m.parameters(), 0.05)
bl = 1e9
for e in range(8):
    x = torch.randn(8, 3)
    l = (m(x).squeeze(1) - x[:, 0]).pow(2).mean()
    o.zero_grad()
    l.backward()
    o.step()
    if l.item() < bl:
        bl = l.item()
        best_weights = {k: v.clone() for k, v in m.state_dict().items()}
    if e == 7:
        for _ in range(2):
            x = torch.randn(8, 3)
            l = (m(x).squeeze(1) - x[:, 0]).pow(2).mean()
            o.zero_grad()
            l.backward()
            o.step()
final = build()
final.load_state_dict(best_weights)
final.eval()
with torch.no_grad():
    print(final(torch.ones(1, 3)))
