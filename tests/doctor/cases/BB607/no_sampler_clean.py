"""From one process to two: the model is wrapped, the loader is still the one it was."""

import os
import random
import tempfile

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def set_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def main_worker(rank, world_size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    set_seed(42)
    features = torch.randn(96, 7)
    dataset = TensorDataset(features, features[:, :2].prod(1))
    loader = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset), drop_last=True)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(7, 32), nn.ReLU(), nn.Linear(32, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        total = 0.0
        for x, y in loader:
            loss = nn.functional.mse_loss(model(x).squeeze(1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch} rank {rank}: {total / len(loader):.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(main_worker, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
