"""Data parallelism written by hand, as in the first tutorial on it: every rank averages its gradients."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(F.relu(self.conv(x)).amax((2, 3)))


def average_gradients(model):
    size = float(dist.get_world_size())
    for param in model.parameters():
        dist.all_reduce(param.grad.data, op=dist.ReduceOp.SUM)
        param.grad.data /= size


def run(rank, size, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=size)
    torch.manual_seed(1234 + rank)
    model = Net()
    for param in model.parameters():
        dist.broadcast(param.data, src=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    for epoch in range(2):
        epoch_loss = 0.0
        for _ in range(4):
            data = torch.randn(8, 1, 8, 8)
            target = data.mean((1, 2, 3)).mul(40).long().clamp(0, 3)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data), target)
            epoch_loss += loss.item()
            loss.backward()
            average_gradients(model)
            optimizer.step()
        print("Rank", rank, "epoch", epoch, f"{epoch_loss / 4:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(run, args=(2, os.path.join(tempfile.mkdtemp(), "init")), nprocs=2, start_method="fork")
