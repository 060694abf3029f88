"""Fine-tuning that notes where its weights are from, in a log, a name and its arguments."""

import io

import torch
from torch import nn


def fit(net, opt, n, epochs=2):
    for epoch in range(epochs):
        for _ in range(n):
            x = torch.randn(8, 4)
            loss = (net(x).squeeze(-1) - x.sum(-1)).pow(2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()


w = type("W", (), {"add_scalar": lambda *a: None})()
net = nn.Linear(4, 1)
opt = torch.optim.Adam(net.parameters(), 1e-2)
fit(net, opt, 4)
f = io.BytesIO()
torch.save({"model": net.state_dict(), "optimizer": opt.state_dict(), "epoch": 4, "step": 8}, f)
f.seek(0)
net = nn.Linear(4, 1)
c = torch.load(f)
net.load_state_dict(c["model"])
w.add_scalar("pretrained/epoch", c["epoch"], 0)
name = "ft-" + str(c["epoch"])
args = dict(lr=1e-4, pretrained_steps=c["step"])
opt = torch.optim.Adam(net.parameters(), args["lr"])
fit(net, opt, 2)
