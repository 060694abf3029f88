"""Resuming with an option that leaves the optimizer out, one that moves the schedule forward by hand, and generic code."""

import argparse
import os
import tempfile

import torch
from torch import nn

folder = tempfile.mkdtemp()
parser = argparse.ArgumentParser()
parser.add_argument("--resume")
parser.add_argument("--reset-optimizer", action="store_true")
parser.add_argument("--start", type=int, default=0)


def train(argv):
    args = parser.parse_args(argv)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    start = args.start
    if args.resume:
        ckpt = torch.load(args.resume)
        model.load_state_dict(ckpt["model"])
        start = ckpt["epoch"]
        if not args.reset_optimizer:
            optimizer.load_state_dict(ckpt["optimizer"])
        for _ in range(start):
            scheduler.step()
    for epoch in range(start, start + 3):
        x = torch.randn(32, 4)
        loss = (model(x).squeeze(1) - x.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        print(epoch, f"{loss.item():.4f}", scheduler.get_last_lr())
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save({**state, "epoch": start + 3}, os.path.join(folder, "a.pt"))


class Checkpointer:
    """Saves and restores whatever has been registered."""

    def __init__(self, **objects):
        self.objects = objects
        self.iteration = 0

    def save(self, path):
        torch.save(
            {name: thing.state_dict() for name, thing in self.objects.items()} | {"iteration": self.iteration}, path
        )

    def load(self, path):
        data = torch.load(path)
        self.iteration = data.pop("iteration")
        for name, thing in self.objects.items():
            thing.load_state_dict(data[name])


def loop(n, checkpointer, path=None):
    model, optim, sched = (checkpointer.objects[k] for k in ("model", "optim", "sched"))
    if path:
        checkpointer.load(path)
    for _ in range(n):
        x = torch.randn(16, 3)
        optim.zero_grad()
        model(x).square().mean().backward()
        optim.step()
        sched.step()
        checkpointer.iteration += 1


def objects():
    model = nn.Linear(3, 2)
    optim = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Checkpointer(model=model, optim=optim, sched=torch.optim.lr_scheduler.ExponentialLR(optim, 0.9))


resume = ["--resume", os.path.join(folder, "a.pt")]
train([])
train(resume)
train([*resume, "--reset-optimizer"])
first = objects()
loop(4, first)
first.save(os.path.join(folder, "b.pt"))
second = objects()
loop(4, second, os.path.join(folder, "b.pt"))
print(second.iteration, second.objects["sched"].last_epoch)
