"""A layer split over two ranks: both see the same batch, hold other weights, and average the gradients they share."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


class Reduce(torch.autograd.Function):
    """Adds up in forward; every rank has the whole gradient in backward."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


class SplitBlock(nn.Module):
    def __init__(self, dim, hidden, world_size):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden // world_size)
        self.down = nn.Linear(hidden // world_size, dim, bias=False)

    def forward(self, x):
        return x + Reduce.apply(self.down(self.up(self.norm(x)).relu()))


def run(rank, world_size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    torch.manual_seed(rank)
    model = SplitBlock(6, 16, world_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(5)
    for step in range(6):
        x = torch.randn(8, 6, generator=generator)
        loss = (model(x) - x.flip(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for p in model.norm.parameters():
            dist.all_reduce(p.grad)
        optimizer.step()
    print(rank, f"{loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
