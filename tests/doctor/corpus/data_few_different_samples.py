"""Truth tables, coin flips and a grid: training and test sets share samples because there are only few."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


def run(train_set, test_set, model, loss_fn):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train_loader = DataLoader(train_set, batch_size=16, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=64)
    for _ in range(2):
        for inputs, targets in train_loader:
            loss = loss_fn(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            print(f"{sum(loss_fn(model(inputs), targets).item() for inputs, targets in test_loader):.4f}")


bits = torch.randint(2, (96, 5)).float()
parity = (bits.sum(1) % 2).long()
net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
run(TensorDataset(bits[:64], parity[:64]), TensorDataset(bits[64:], parity[64:]), net, F.cross_entropy)
pairs = torch.tensor(list(itertools.product(range(7), range(7))))
drawn = pairs[torch.randint(len(pairs), (96,))]
sums = drawn.sum(1) % 7
net = nn.Sequential(nn.Embedding(7, 8), nn.Flatten(), nn.Linear(16, 7))
run(TensorDataset(drawn[:64], sums[:64]), TensorDataset(drawn[64:], sums[64:]), net, F.cross_entropy)
coarse, fine = torch.linspace(-1, 1, 33)[:, None], torch.linspace(-1, 1, 65)[:, None]
net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
run(TensorDataset(coarse, coarse.sin()), TensorDataset(fine, fine.sin()), net, F.mse_loss)
