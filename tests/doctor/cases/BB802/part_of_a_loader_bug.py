"""A trainer that validates on the first few batches only, in the middle of an epoch."""

import itertools

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(10, 24), nn.BatchNorm1d(24), nn.ReLU())
        self.head = nn.Linear(24, 1)

    def forward(self, x):
        return self.head(self.features(x)).squeeze(-1)


class Trainer:
    def __init__(self, model, train, val, limit_val_batches=2, val_check_interval=3):
        self.model, self.train, self.val = model, train, val
        self.limit, self.interval = limit_val_batches, val_check_interval
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def validate(self):
        total = 0.0
        with torch.inference_mode():
            for x, y in itertools.islice(self.val, self.limit):
                total += nn.functional.mse_loss(self.model(x), y).item()  # cause: BB802
        return total / self.limit

    def fit(self, epochs):
        for epoch in range(epochs):
            for number, (x, y) in enumerate(self.train, 1):
                loss = nn.functional.mse_loss(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                if number % self.interval == 0:
                    print(epoch, number, f"{loss.item():.3f} val {self.validate():.3f}")


torch.manual_seed(2)
x = torch.randn(128, 10)
data = TensorDataset(x, x[:, 0].abs())
train, val = torch.utils.data.random_split(data, [72, 56])
Trainer(Net(), DataLoader(train, batch_size=12, shuffle=True), DataLoader(val, batch_size=12)).fit(2)
