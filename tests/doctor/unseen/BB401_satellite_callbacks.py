"""Satellite tile regression with a callback-driven fit()."""
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


class Callback:
    def on_epoch_begin(self, learner): ...
    def on_batch_end(self, learner): ...
    def on_epoch_end(self, learner): ...


class LossHistory(Callback):
    def on_epoch_begin(self, learner):
        self.values = []

    def on_batch_end(self, learner):
        self.values.append(learner.loss.item())

    def on_epoch_end(self, learner):
        print(f"epoch {learner.epoch}: train {sum(self.values) / len(self.values):.4f}", end=" ")


class Validation(Callback):
    def __init__(self, loader):
        self.loader = loader

    def on_epoch_end(self, learner):
        learner.model.eval()
        with torch.no_grad():
            losses = [learner.loss_fn(learner.model(x), y).item() for x, y in self.loader]
        print(f"valid {sum(losses) / len(losses):.4f}")


class Learner:
    def __init__(self, model, loss_fn, optimizer, callbacks=()):
        self.model, self.loss_fn, self.optimizer, self.callbacks = model, loss_fn, optimizer, callbacks

    def _call(self, hook):
        for cb in self.callbacks:
            getattr(cb, hook)(self)

    def fit(self, loader, epochs):
        for self.epoch in range(epochs):
            self.model.train()
            self._call("on_epoch_begin")
            for x, y in loader:
                self.optimizer.zero_grad  # cause: BB401
                self.loss = self.loss_fn(self.model(x), y)
                self.loss.backward()
                self.optimizer.step()
                self._call("on_batch_end")
            self._call("on_epoch_end")


def tiles(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, 6, 6, generator=g)
    y = (x[:, 3] - x[:, 0]).mean((1, 2), keepdim=False).unsqueeze(1) * 3
    return TensorDataset(x, y)


if __name__ == "__main__":
    torch.manual_seed(0)
    train_dl, valid_dl = DataLoader(tiles(256, 0), 16, shuffle=True), DataLoader(tiles(64, 1), 64)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 1))
    learner = Learner(model, nn.MSELoss(), optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
                      callbacks=[LossHistory(), Validation(valid_dl)])
    learner.fit(train_dl, 3)
