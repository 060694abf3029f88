"""Passes without gradients over samples that are trained on: statistics, pseudo-labels, a memory bank, tests before training."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

torch.manual_seed(0)
x = torch.randn(80, 6)
y = (x[:, 0] > x[:, 1]).long()
labeled, pool = TensorDataset(x[:24], y[:24]), TensorDataset(x[24:64], y[24:64])
held_out = DataLoader(TensorDataset(x[64:], y[64:]), batch_size=16)
model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)


def fit(dataset, epochs=2):
    model.train()
    for _ in range(epochs):
        for inputs, targets in DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True):
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def predict(loader):
    model.eval()
    with torch.no_grad():
        return torch.cat([model(inputs).softmax(1) for inputs, _ in loader])


fit(labeled)
for _ in range(3):  # self-training: predict the pool, train on what is sure, predict the pool again
    probabilities = predict(DataLoader(pool, batch_size=20))
    confident = probabilities.max(1)
    chosen = torch.nonzero(confident.values > 0.6).flatten()
    pseudo = TensorDataset(x[24:64][chosen], confident.indices[chosen])
    fit(ConcatDataset([labeled, pseudo]), epochs=1)
    print(f"{(predict(held_out).argmax(1) == y[64:]).float().mean():.3f}")
for _ in range(2):  # statistics of BatchNorm anew, on a part of the training data
    model.train()
    with torch.no_grad():
        for inputs, _ in DataLoader(Subset(labeled, range(0, 24, 2)), batch_size=4):
            model(inputs)
bank = predict(DataLoader(labeled, batch_size=12))  # nearest neighbors among the training samples
near = torch.cdist(predict(held_out), bank).argmin(1)
print(f"{(y[:24][near] == y[64:]).float().mean():.3f}")
stream = DataLoader(TensorDataset(x, y), batch_size=16)
right = 0
for inputs, targets in stream:  # each chunk is a test first, then it is trained on
    model.eval()
    with torch.no_grad():
        right += (model(inputs).argmax(1) == targets).sum().item()
    model.train()
    loss = F.cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(right)
