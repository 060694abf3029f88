"""A GAN on two ranks: the generator's loss goes through the inner discriminator, which is frozen then."""

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
    G = DDP(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)))
    D = DDP(nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1)))
    og = torch.optim.Adam(G.parameters(), 1e-3)
    od = torch.optim.Adam(D.parameters(), 1e-3)
    for i in range(6):
        fake = G(torch.randn(8, 2))
        real = torch.randn(8, 2)
        d = nn.functional.softplus(D(torch.cat([fake.detach(), real])))
        od.zero_grad()
        (d[:8].mean() - d[8:].mean()).backward()
        od.step()
        D.requires_grad_(False)
        g = -D.module(fake).mean()
        og.zero_grad()
        g.backward()
        og.step()
        D.requires_grad_(True)
    print(rank, sum(p.sum().item() for p in G.parameters()))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(os.path.join(tempfile.mkdtemp(), "init"),), nprocs=2, start_method="fork")
