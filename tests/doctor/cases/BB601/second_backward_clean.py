"""Two losses of one forward, each with its own call of backward."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


def run(rank, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    m = DDP(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
    o = torch.optim.Adam(m.parameters(), 1e-3)
    for i in range(6):
        x = torch.randn(8, 4)
        out = m(x).squeeze(1)
        o.zero_grad()
        ((out - x[:, 0]).pow(2).mean() + 0.1 * out.abs().mean()).backward()
        o.step()
    print(rank, sum(p.sum().item() for p in m.parameters()))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(os.path.join(tempfile.mkdtemp(), "init"),), nprocs=2, start_method="fork")
