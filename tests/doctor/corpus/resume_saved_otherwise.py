"""Files that hold all that is trained, in other shapes: tied weights once, halves, lists, numbers, adapters alone."""

import io

import torch
from torch import nn

torch.manual_seed(0)


def disk(x):
    torch.save(x, io.BytesIO())


# tied weights, weight norm, buffers; half copies
class LM(nn.Module):
    def __init__(s):
        super().__init__()
        s.emb = nn.Embedding(12, 8)
        s.h = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        s.out = nn.Linear(8, 12, bias=False)
        s.out.weight = s.emb.weight

    def forward(s, i):
        return s.out(s.h(s.emb(i)).tanh())


m = LM()
o = torch.optim.AdamW(m.parameters(), 1e-3)


def fit(m, o, n=4):
    for _ in range(n):
        i = torch.randint(12, (4, 6))
        o.zero_grad()
        nn.functional.cross_entropy(m(i[:, :-1]).flatten(0, 1), i[:, 1:].flatten()).backward()
        o.step()


for e in range(3):
    fit(m, o)
    sd = m.state_dict()
    sd.pop("out.weight")  # tied
    disk({"model": {k: v.half() for k, v in sd.items()}, "opt": o.state_dict(), "e": e})


# lora: adapters only, head frozen on purpose; merged weights saved at end
class A(nn.Module):
    def __init__(s):
        super().__init__()
        s.base = nn.Linear(6, 8).requires_grad_(False)
        s.lora_a = nn.Linear(6, 2, bias=False)
        s.lora_b = nn.Linear(2, 8, bias=False)
        s.head = nn.Linear(8, 3)

    def forward(s, x):
        return s.head(s.base(x) + s.lora_b(s.lora_a(x)))


m = A()
m.head.requires_grad_(False)
o = torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], 1e-3)
for e in range(3):
    for _ in range(3):
        x = torch.randn(8, 6)
        o.zero_grad()
        nn.functional.cross_entropy(m(x), x[:, :3].argmax(1)).backward()
        o.step()
    disk({k: v for k, v in m.state_dict().items() if "lora" in k})
# param saved by hand in a list, and fp32 masters
m = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
scale = nn.Parameter(torch.ones(1))
o = torch.optim.Adam([*m.parameters(), scale], 1e-3)
for e in range(3):
    for _ in range(3):
        x = torch.randn(8, 6)
        o.zero_grad()
        (nn.functional.cross_entropy(m(x) * scale, x[:, :3].argmax(1))).backward()
        o.step()
    disk({"params": [p.detach().clone() for p in m.parameters()], "scale": scale.item(), "opt": o.state_dict()})
