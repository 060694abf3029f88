"""Local SGD: every rank steps alone, and the parameters are averaged every fourth step."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def synchronize(model, world_size):
    flat = parameters_to_vector(model.parameters()).detach()
    dist.all_reduce(flat)
    vector_to_parameters(flat / world_size, model.parameters())


def local_sgd(rank, world_size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    torch.manual_seed(3)
    model = DDP(nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(rank + 10)
    for step in range(12):
        x = torch.randn(16, 5, generator=generator)
        with model.no_sync():
            loss = (model(x).squeeze(1) - x.sum(1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        if step % 4 == 3:
            synchronize(model, world_size)
    print(rank, f"{loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(local_sgd, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
