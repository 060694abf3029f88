"""Regression; the loaders are built by a function, for each epoch anew, so that the batch size can grow."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, distributed


def build_loader(dataset, batch_size, epoch, rank=1, world_size=4):
    sampler = distributed.DistributedSampler(dataset, num_replicas=world_size, rank=rank, seed=7)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler)


def run_epoch(model, loader, optimizer, criterion):
    losses = []
    for inputs, targets in loader:  # cause: BB102
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean()


def main():
    torch.manual_seed(3)
    inputs = torch.rand(96, 3)
    dataset = TensorDataset(inputs, inputs.prod(1, keepdim=True))
    model = nn.Sequential(nn.Linear(3, 24), nn.GELU(), nn.Linear(24, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(4):
        loader = build_loader(dataset, 4 if epoch < 2 else 8, epoch)
        print(epoch, f"{run_epoch(model, loader, optimizer, nn.MSELoss()):.5f}")


if __name__ == "__main__":
    main()
