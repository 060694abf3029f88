"""Averaging starts after the first epoch, from a copy of the model as it is then."""

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, lr=0.05, average_from=1, decay=0.8):
        self.model, self.average, self.average_from, self.decay = model, None, average_from, decay
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def after_step(self, epoch):
        if epoch < self.average_from:
            return
        if self.average is None:
            self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        with torch.no_grad():
            averaged = list(self.average.parameters())
            torch._foreach_lerp_(averaged, list(self.model.parameters()), 1 - self.decay)
            torch._foreach_copy_(list(self.average.buffers()), list(self.model.buffers()))

    @torch.no_grad()
    def evaluate(self, x, y):
        model = self.average or self.model
        model.eval()
        error = nn.functional.mse_loss(model(x), y).item()
        self.model.train()
        return error

    def fit(self, loader, held_out, epochs):
        for epoch in range(epochs):
            for x, y in loader:
                loss = nn.functional.mse_loss(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.after_step(epoch)
            print(f"epoch {epoch} loss {loss.item():.4f} held out {self.evaluate(*held_out):.4f}")


torch.manual_seed(3)
x = 3 * torch.randn(80, 5) + 2
y = x[:, :1] * 0.5
net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 1))
loader = DataLoader(TensorDataset(x[:60], y[:60]), batch_size=20, shuffle=True)
Trainer(net).fit(loader, (x[60:], y[60:]), epochs=4)
