"""Distributed training of a small convnet (launch with torchrun, or alone for debugging)."""
import os
import tempfile

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

BATCH, EPOCHS, LR = 16, 3, 0.05


def setup():
    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group("gloo")
    else:
        store = dist.FileStore(os.path.join(tempfile.mkdtemp(), "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    return rank, world


def fake_split(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 6, (n,), generator=g)
    x = torch.randn(n, 3, 8, 8, generator=g)
    x[torch.arange(n), y % 3] += (y // 3 * 2 - 1).view(-1, 1, 1) * 0.7
    return TensorDataset(x, y)


class Net(nn.Module):
    def __init__(self, c=12, num_classes=6):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
                                      nn.Conv2d(c, c, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.head = nn.Linear(c, num_classes)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def train_one_epoch(epoch, model, loader, optimizer, criterion, rank):
    model.train()
    for i, (x, y) in enumerate(loader):
        optimizer.zero_grad(set_to_none=True)
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        if rank == 0 and i % 8 == 0:
            print(f"epoch {epoch} [{i}/{len(loader)}] loss {loss.item():.4f}")


@torch.no_grad()
def validate(model, loader):
    model.eval()
    correct = total = 0
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum()
        total += len(y)
    return (correct / total).item()


def main():
    rank, world = setup()
    torch.manual_seed(0)
    train_set, val_set = fake_split(256, 0), fake_split(96, 1)
    sampler = DistributedSampler(train_set, num_replicas=world, rank=rank, shuffle=True)
    train_loader = DataLoader(train_set, batch_size=BATCH, sampler=sampler, drop_last=True)
    val_loader = DataLoader(val_set, batch_size=48)
    model = nn.parallel.DistributedDataParallel(Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):  # cause: BB102
        train_one_epoch(epoch, model, train_loader, optimizer, criterion, rank)
        acc = validate(model, val_loader)
        if rank == 0:
            print(f"epoch {epoch} val acc {acc:.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
