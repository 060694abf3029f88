"""DistributedDataParallel in its variants: sharded optimizer states, a state loaded on all ranks, adversarial inputs."""

import io
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.distributed.optim import ZeroRedundancyOptimizer


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def fit(m, o, n=5, gen=None, join=False):
    for i in range(n):
        x = torch.randn(8, 4, generator=gen)
        o.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = m(x).squeeze(1).float()
        (out - x[:, 0]).pow(2).mean().backward()
        o.step()


def run(rank, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(rank)
    m = DDP(net(), gradient_as_bucket_view=True, static_graph=True)
    fit(m, torch.optim.Adam(m.parameters(), 1e-2), gen=gen)
    m = DDP(net(), broadcast_buffers=False)
    fit(m, ZeroRedundancyOptimizer(m.parameters(), torch.optim.Adam, lr=1e-2), gen=gen)
    # all ranks load after wrapping, and the optimizer
    f = io.BytesIO()
    o = torch.optim.Adam(m.parameters(), 1e-2)
    fit(m, o, gen=gen)
    torch.save({"m": m.module.state_dict(), "o": o.state_dict(), "step": 5}, f)
    f.seek(0)
    m = DDP(net())
    o = torch.optim.Adam(m.parameters(), 1e-2)
    c = torch.load(f)
    m.module.load_state_dict(c["m"])
    o.load_state_dict(c["o"])
    for step in range(c["step"], 8):
        fit(m, o, 1, gen=gen)
    # grad-mode validation through the wrapper, no backward
    m(torch.randn(8, 4, generator=gen))
    fit(m, o, 2, gen=gen)
    # sum of two forwards, one backward; EMA of module
    x = torch.randn(8, 4, generator=gen)
    o.zero_grad()
    (m(x).mean() + m(-x).mean() + m.module(x).mean()).backward()
    o.step()
    # fgsm through the module, then cleared
    for _ in range(3):
        x = torch.randn(8, 4, generator=gen).requires_grad_()
        m.module(x).sum().backward()
        x = (x + 0.1 * x.grad.sign()).detach()
        o.zero_grad()
        m(x).mean().backward()
        o.step()
    print(rank, sum(p.sum().item() for p in m.parameters()))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(os.path.join(tempfile.mkdtemp(), "init"),), nprocs=2, start_method="fork")
