"""Ten batches per epoch, accumulated by four: the last window of an epoch is shorter, and steps as well."""

import os
import tempfile
from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class Waves(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        t = torch.linspace(0, 3, 16) + i
        return torch.sin(t), torch.tensor(float(i % 7))


def train(rank, world_size, path, accumulate=4):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    torch.manual_seed(42)
    model = DDP(nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 1), nn.Flatten(0)))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    dataset = Waves()
    loader = DataLoader(dataset, batch_size=4, sampler=DistributedSampler(dataset, shuffle=True))
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for i, (x, y) in enumerate(loader):
            window_ends = (i + 1) % accumulate == 0 or i + 1 == len(loader)
            context = nullcontext() if window_ends else model.no_sync()
            with context:
                loss = nn.functional.smooth_l1_loss(model(x), y)
                (loss / accumulate).backward()
            if window_ends:
                optimizer.step()
                optimizer.zero_grad()
        print(f"{rank}: epoch {epoch}, {loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(train, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
