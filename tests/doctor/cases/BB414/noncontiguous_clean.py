"""An optimizer that normalizes each update, for weights of any layout."""

import torch
from torch import nn


class NormalizedSGD(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.add_(p.grad / (p.grad.norm() + 1e-8), alpha=-group["lr"])


class Autoencoder(nn.Module):
    def __init__(self, width=10, code=4):
        super().__init__()
        self.encoder = nn.Linear(width, code)
        self.decoder = nn.Linear(code, width)
        self.decoder.weight = nn.Parameter(self.encoder.weight.detach().clone().t())  # starts as the transpose

    def forward(self, x):
        return self.decoder(torch.tanh(self.encoder(x)))


def main():
    torch.manual_seed(1)
    model = Autoencoder()
    optimizer = NormalizedSGD(model.parameters(), lr=0.02)
    for step in range(10):
        x = torch.randn(32, 4) @ torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
        loss = nn.functional.mse_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(step, f"{loss.item():.5f}")


main()
