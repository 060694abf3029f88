"""A GAN with two optimizers; the checkpoint has both, and `load` puts one of them back."""

import io

import torch
from torch import nn


class GAN:
    def __init__(s):
        s.g, s.d = nn.Linear(2, 2), nn.Linear(2, 1)
        s.opt_d = torch.optim.Adam(s.d.parameters(), 2e-4, betas=(0.5, 0.9))
        s.opt_g = torch.optim.Adam(s.g.parameters(), 2e-4, betas=(0.5, 0.9))
        s.it = 0

    def save(s):
        f = io.BytesIO()
        torch.save(
            {
                "g": s.g.state_dict(),
                "d": s.d.state_dict(),
                "opts": {"d": s.opt_d.state_dict(), "g": s.opt_g.state_dict()},
                "it": s.it,
            },
            f,
        )
        f.seek(0)
        return f

    def load(s, f):
        ck = torch.load(f)
        s.g.load_state_dict(ck["g"])
        s.d.load_state_dict(ck["d"])
        s.opt_d.load_state_dict(ck["opts"]["d"])
        s.opt_g.load_state_dict(ck["opts"]["g"])
        s.it = ck["it"] + 1

    def train(s, n):
        for s.it in range(s.it, n):
            fake = s.g(torch.randn(8, 2))
            s.opt_d.zero_grad()
            (
                nn.functional.softplus(s.d(fake.detach())).mean()
                + nn.functional.softplus(-s.d(torch.randn(8, 2))).mean()
            ).backward()
            s.opt_d.step()
            s.opt_g.zero_grad()
            nn.functional.softplus(-s.d(fake)).mean().backward()
            s.opt_g.step()


a = GAN()
a.train(6)
b = GAN()
b.load(a.save())
b.train(12)
