"""A policy whose training method is not its forward."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


class Policy(nn.Module):
    def __init__(s):
        super().__init__()
        s.body = nn.Linear(4, 8)
        s.pi = nn.Linear(8, 2)
        s.v = nn.Linear(8, 1)

    def forward(s, x):
        h = s.body(x).tanh()
        return s.pi(h), s.v(h)

    def evaluate(s, x, a):
        h = s.body(x).tanh()
        return torch.distributions.Categorical(logits=s.pi(h)).log_prob(a), s.v(h).squeeze(-1)


def run(rank, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    policy = nn.parallel.DistributedDataParallel(Policy())
    opt = torch.optim.Adam(policy.parameters(), 3e-4)
    for it in range(4):
        obs = torch.randn(16, 4)
        with torch.no_grad():
            logits, value = policy(obs)
        act = torch.distributions.Categorical(logits=logits).sample()
        ret = torch.randn(16)
        logp, v = policy.module.evaluate(obs, act)  # cause: BB601
        loss = -(logp * (ret - value.squeeze(-1))).mean() + 0.5 * (v - ret).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        opt.step()
    print(rank, loss.item())
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(os.path.join(tempfile.mkdtemp(), "init"),), nprocs=2, start_method="fork")
