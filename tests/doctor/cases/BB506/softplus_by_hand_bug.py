"""A model of rates with its own softplus; half precision weights, batches that are not finite are left out."""

import torch
from torch import nn


def softplus(x):
    return torch.log1p(torch.exp(x))  # cause: BB506


def main():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    done = 0
    for step in range(12):
        x = 60 * torch.randn(32, 6)
        counts = torch.poisson(x.abs().mean(1))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            rate = softplus(model(x).squeeze(1)) + 1e-3
        loss = nn.functional.poisson_nll_loss(rate.float(), counts, log_input=False)
        if not torch.isfinite(loss):
            continue
        loss.backward()
        optimizer.step()
        done += 1
    print("steps made", done)


main()
