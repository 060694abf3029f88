"""Binary network: the weights of the hidden layer are used as plus or minus one."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn


class BinaryLinear(nn.Linear):
    def forward(self, x):
        scale = self.weight.abs().mean(1, keepdim=True).detach()
        binary = self.weight + (self.weight.sign() - self.weight).detach()
        return F.linear(x, scale * binary, self.bias)


def evaluate(model, x, y):
    model.eval()
    with torch.no_grad():
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return accuracy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args([])
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), BinaryLinear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x = torch.randn(128, 6)
    y = (x[:, 0] * x[:, 1] > 0).long()
    for step in range(args.steps):
        rows = torch.randint(128, (32,))
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 4:
            print(step, f"{loss.item():.4f}", evaluate(model, x, y))


main()
