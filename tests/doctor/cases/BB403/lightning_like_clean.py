"""A regression module in the style of Lightning, driven by a small loop of our own."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class LitRegressor(nn.Module):
    def __init__(self, hidden=24):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def training_step(self, batch):
        x, y = batch
        return nn.functional.huber_loss(self.net(x), y)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


class Loop:
    def __init__(self, max_epochs, accumulate_grad_batches=1):
        self.max_epochs, self.accumulate = max_epochs, accumulate_grad_batches

    def fit(self, module, loader):
        optimizer, scheduler = module.configure_optimizers()
        for epoch in range(self.max_epochs):
            for index, batch in enumerate(loader):
                loss = module.training_step(batch) / self.accumulate
                self.optimizer_step(module, optimizer, loss, last=(index + 1) % self.accumulate == 0)
            scheduler.step()
            print(f"epoch {epoch} last loss {loss.item() * self.accumulate:.4f}")

    def optimizer_step(self, module, optimizer, loss, last):
        loss.backward()
        if last:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)


torch.manual_seed(5)
x = torch.randn(96, 5)
dataset = TensorDataset(x, x[:, :1] * x[:, 1:2])
Loop(3, accumulate_grad_batches=2).fit(LitRegressor(), DataLoader(dataset, batch_size=16, shuffle=True))
