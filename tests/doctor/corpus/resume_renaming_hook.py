"""Weights with old names, which the module renames itself while it loads them."""

import io

import torch
from torch import nn


class M(nn.Module):
    def __init__(s):
        super().__init__()
        s.layer = nn.Linear(3, 8)
        s.out = nn.Linear(8, 2)
        s._register_load_state_dict_pre_hook(s.rename)

    def rename(s, sd, prefix, *a):
        for k in list(sd):
            if k.startswith(prefix + "old_"):
                sd[prefix + k[len(prefix) + 4 :]] = sd.pop(k)

    def forward(s, x):
        return s.out(s.layer(x).relu())


a = M()
f = io.BytesIO()
torch.save({"old_" + k: v for k, v in a.state_dict().items()}, f)
f.seek(0)
b = M()
b.load_state_dict(torch.load(f), strict=False)
o = torch.optim.SGD(b.parameters(), 0.1)
for _ in range(4):
    o.zero_grad()
    x = torch.randn(4, 3)
    nn.functional.cross_entropy(b(x), x[:, :2].argmax(1)).backward()
    o.step()
# state of a model with a lora added: base keys fit
