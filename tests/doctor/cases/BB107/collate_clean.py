"""Token counts, scaled to unit length in the collate function."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def make_batch(samples, dropout=0.1):
    rows, targets = [], []
    for counts, target in samples:
        counts = counts * (torch.rand(len(counts)) >= dropout)
        rows.append(counts / (counts.norm() + 1e-6))
        targets.append(target)
    return torch.stack(rows), torch.stack(targets)


def main(epochs=3, batch_size=10):
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((60, 12), 3.0))
    labels = (counts[:, :6].sum(1) > counts[:, 6:].sum(1)).long()
    loader = DataLoader(TensorDataset(counts, labels), batch_size, shuffle=True, collate_fn=make_batch)
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 2))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-2)
    for epoch in range(epochs):
        for batch, target in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("epoch", epoch, round(loss.item(), 4))


main()
