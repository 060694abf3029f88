"""Sensor model whose inputs go through an RMSNorm; activations are kept in half to save memory."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        x = x.half()
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)  # cause: BB506
        return (x * scale).float() * self.weight


class SensorNet(nn.Module):
    def __init__(self, d=12, h=32, k=3):
        super().__init__()
        self.norm = RMSNorm(d)
        self.ff = nn.Sequential(nn.Linear(d, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU())
        self.out = nn.Linear(h, k)

    def forward(self, x):
        return self.out(self.ff(self.norm(x)))


def readings(n, seed, k=3):
    proto = torch.randn(k, 12, generator=torch.Generator().manual_seed(6)) * 250
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    return TensorDataset(proto[y] + 150 * torch.randn(n, 12, generator=g) + 1500, y)


def loop(model, loader, optimizer=None):
    model.train(optimizer is not None)
    loss_sum = hits = n = 0
    for x, y in loader:
        with torch.set_grad_enabled(optimizer is not None):
            logits = model(x)
            loss = F.cross_entropy(logits, y)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_sum += loss.item() * len(y)
        hits += (logits.argmax(1) == y).sum().item()
        n += len(y)
    return loss_sum / n, hits / n


def main():
    torch.manual_seed(0)
    train_loader, val_loader = DataLoader(readings(320, 0), 32, shuffle=True), DataLoader(readings(96, 1), 96)
    model = SensorNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for epoch in range(3):
        tr, va = loop(model, train_loader, optimizer), loop(model, val_loader)
        print("epoch {} train {:.4f} / {:.3f} val {:.4f} / {:.3f}".format(epoch, *tr, *va))


if __name__ == "__main__":
    main()
