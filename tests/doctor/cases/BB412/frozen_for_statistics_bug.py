"""Fine-tuning; after the first epoch the gradient of the input is looked at with the model frozen."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def saliency(model, x):
    model.requires_grad_(False)  # cause: BB412
    x = x.clone().requires_grad_(True)
    model(x).max(1).values.sum().backward()
    return x.grad.abs().mean(0)


def train(model, loader, epochs):
    scale = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scale_optimizer = torch.optim.Adam([scale], lr=1e-2)
    for epoch in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            scale_optimizer.zero_grad()
            loss = nn.functional.cross_entropy(scale * model(x), y)
            loss.backward()
            optimizer.step()
            scale_optimizer.step()
        important = saliency(model, x)
        print(f"epoch {epoch} loss {loss.item():.4f} most important {important.argmax().item()}")


torch.manual_seed(2)
x = torch.randn(64, 5)
loader = DataLoader(TensorDataset(x, (x[:, 3] > 0).long()), batch_size=16, shuffle=True)
train(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)), loader, 3)
