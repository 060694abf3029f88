"""DistributedDataParallel with accumulation as it should be, and the inner model called where that is right."""

import os
import tempfile
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def penalty(self):
        return self.head.weight.square().sum()


def train(rank, world_size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    torch.manual_seed(0)
    model = DDP(Net())
    ema = Net()
    ema.load_state_dict(model.module.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(rank)
    for step in range(4):
        for micro in range(3):
            x = torch.randn(8, 8, generator=generator)
            y = x[:, :3].argmax(1)
            with model.no_sync() if micro < 2 else nullcontext():
                loss = F.cross_entropy(model(x), y) + 1e-3 * model.module.penalty()
                (loss / 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        # forward outside, backward inside: averages all the same
        loss = F.cross_entropy(model(x), y)
        with model.no_sync():
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for averaged, p in zip(ema.parameters(), model.module.parameters()):
                averaged.lerp_(p, 0.2)
            model.eval()
            hits = (model.module(x).argmax(1) == y).sum()
            model.train()
            dist.all_reduce(hits)
        if rank == 0:
            print(step, hits.item())
    print(rank, sum(p.sum().item() for p in model.parameters()))
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(train, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
