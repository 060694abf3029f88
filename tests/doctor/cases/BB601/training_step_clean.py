"""A trainer for modules that bring their own `training_step`, made fit for several ranks."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 24), nn.GELU())
        self.head = nn.Linear(24, 1)

    def forward(self, batch):
        return self.training_step(batch)

    def training_step(self, batch):
        x, y = batch
        features = self.encoder(x)
        return (self.head(features).squeeze(-1) - y).abs().mean()


class Trainer:
    def __init__(self, module, max_steps=5):
        self.model = DistributedDataParallel(module) if dist.is_initialized() else module
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.max_steps = max_steps

    def fit(self, batches):
        for step, batch in zip(range(self.max_steps), batches):
            loss = self.model(batch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return loss.item()


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(16, 8, generator=generator)
        yield x, x.norm(dim=1)


def worker(rank, world, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=world)
    torch.manual_seed(0)
    last = Trainer(Regressor()).fit(batches(seed=rank))
    print(f"rank {rank}: {last:.5f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    context = mp.get_context("fork")
    file = os.path.join(tempfile.mkdtemp(), "init")
    ranks = [context.Process(target=worker, args=(rank, 2, file)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    print("exit codes", [process.exitcode for process in ranks])
