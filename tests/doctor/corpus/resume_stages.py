"""Second stages that begin from the best weights of the first, with a new optimizer."""

import io

import torch
from torch import nn


def build():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def fit(net, opt, n):
    for _ in range(n):
        x = torch.randn(8, 4)
        loss = (net(x).squeeze(-1) - x.sum(-1)).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    return loss.item()


net = build()
opt = torch.optim.Adam(net.parameters(), 1e-2)
best = 1e9
f = None
for epoch in range(1, 4):
    l = fit(net, opt, 3)
    if l < best:
        best = l
        f = io.BytesIO()
        torch.save({"model": net.state_dict(), "optimizer": opt.state_dict(), "epoch": epoch, "best": best}, f)
f.seek(0)
ckpt = torch.load(f)
best_epoch = ckpt["epoch"]
net.load_state_dict(ckpt["model"])
print("stage 2 from", best_epoch)
opt = torch.optim.Adam(net.parameters(), 1e-4)
for epoch in range(3):
    fit(net, opt, 2)


def load_pretrained(f):
    f.seek(0)
    c = torch.load(f)
    n = build()
    n.load_state_dict(c["model"])
    return n, c["epoch"]


net, when = load_pretrained(f)
print(when)
fit(net, torch.optim.Adam(net.parameters(), 1e-4), 3)
# best weights reloaded at lr drop, in the same run, optimizer goes on
opt = torch.optim.Adam(net.parameters(), 1e-2)
start = 0
for epoch in range(start, 4):
    fit(net, opt, 3)
    if epoch == 2:
        f.seek(0)
        c = torch.load(f)
        net.load_state_dict(c["model"])
