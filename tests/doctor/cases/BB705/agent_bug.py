"""An agent with a learned temperature, as in soft actor-critic."""

import io

import torch
from torch import nn

torch.manual_seed(0)


class Algo:
    def __init__(s):
        s.actor = nn.Linear(4, 2)
        s.critic = nn.Linear(4, 1)
        s.log_alpha = torch.zeros(1, requires_grad=True)
        s.opt = torch.optim.Adam([*s.actor.parameters(), *s.critic.parameters(), s.log_alpha], 1e-3)

    def update(s):
        x = torch.randn(16, 4)
        lp = s.actor(x).log_softmax(-1)
        v = s.critic(x).squeeze(-1)
        loss = (v - x[:, 0]).pow(2).mean() + (lp[:, 0] * s.log_alpha.exp()).mean() + s.log_alpha.exp().sum()
        s.opt.zero_grad()
        loss.backward()
        s.opt.step()

    def save(s, f):
        torch.save(  # cause: BB705
            {"actor": s.actor.state_dict(), "critic": s.critic.state_dict(), "opt": s.opt.state_dict()}, f
        )


a = Algo()
for i in range(12):
    a.update()
    if i % 4 == 3:
        a.save(io.BytesIO())
