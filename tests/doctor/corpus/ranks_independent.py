"""An ensemble: every rank trains a model of its own on the same data, and only the predictions are averaged."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def member(rank, world_size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 6, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(4):
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    with torch.no_grad():
        votes = model(x).softmax(1)
    dist.all_reduce(votes)
    print(rank, (votes.argmax(1) == y).float().mean().item())
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(member, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
