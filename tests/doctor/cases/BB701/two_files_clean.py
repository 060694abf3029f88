"""Weights in one file, the state of the training in another."""

import os
import tempfile

import torch
from torch import nn

d = tempfile.mkdtemp()


def main(epochs):
    torch.manual_seed(0)
    m = nn.Linear(4, 1)
    o = torch.optim.Adamax(m.parameters(), 1e-2)
    start = 0
    if os.path.exists(d + "/state.pt"):
        m.load_state_dict(torch.load(d + "/model.pt"))
        state = torch.load(d + "/state.pt")
        start = state["epoch"] + 1
        o.load_state_dict(state["opt"])
    for epoch in range(start, epochs):
        for _ in range(4):
            x = torch.randn(8, 4)
            l = (m(x).squeeze(1) - x[:, 0]).pow(2).mean()
            o.zero_grad()
            l.backward()
            o.step()
        torch.save(m.state_dict(), d + "/model.pt")
        torch.save({"epoch": epoch, "opt": o.state_dict()}, d + "/state.pt")


main(2)
main(4)
