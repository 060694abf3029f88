"""Gradient accumulation over four micro-batches on two ranks, without communication in between."""

import os
import tempfile
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

ACCUMULATE = 4


def run(rank, world_size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = DDP(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    for i in range(16):
        x = torch.randn(8, 10, generator=generator)
        with nullcontext() if (i + 1) % ACCUMULATE == 0 else model.no_sync():
            loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)) / ACCUMULATE
            loss.backward()
        if (i + 1) % ACCUMULATE == 0:
            optimizer.step()
            optimizer.zero_grad()
            print(f"rank {rank} step {(i + 1) // ACCUMULATE} loss {loss.item() * ACCUMULATE:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
