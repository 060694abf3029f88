"""A deep multilayer perceptron with sigmoids, on a two-class problem."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class DeepMLP(nn.Module):
    def __init__(self, inputs=8, width=24, depth=12):
        super().__init__()
        self.input = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.output = nn.Linear(width, 2)

    def forward(self, x):
        x = self.input(x)
        for layer in self.hidden:
            x = x + F.relu(layer(x))
        return self.output(x)


model = DeepMLP()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for step in range(8):
    x = torch.randn(32, 8)
    loss = F.cross_entropy(model(x), (x[:, 0] * x[:, 1] > 0).long())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: {loss.item():.4f}")
