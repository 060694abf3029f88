"""A regressor of energies, with a trainer that is told its precision by the configuration."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Energy(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        return self.out(self.net(x)).squeeze(-1)


class Trainer:
    def __init__(self, config):
        self.config = config
        self.dtype = {"bf16-true": torch.bfloat16, "32": torch.float32}[config["precision"]]

    def fit(self, model, loader):
        model.to(dtype=self.dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.config["lr"], momentum=0.9)
        for epoch in range(self.config["epochs"]):
            total = 0.0
            for x, y in loader:
                loss = nn.functional.mse_loss(model(x.to(self.dtype)), y.to(self.dtype))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            print(f"epoch {epoch} mse {total / len(loader):.5f}")


torch.manual_seed(3)
x = torch.randn(96, 12)
y = (x[:, :6] * x[:, 6:]).mean(1)
loader = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=True)
Trainer({"precision": "32", "lr": 1e-4, "epochs": 3}).fit(Energy(), loader)
