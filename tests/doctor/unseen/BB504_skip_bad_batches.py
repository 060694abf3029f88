"""Energy-load forecasting. A log transform of the inputs, robust to the odd broken meter reading."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class LoadForecaster(nn.Module):
    def __init__(self, d=8, h=32):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 1))

    def forward(self, x):
        x = torch.log(x)
        return self.net(x).squeeze(-1)


def meters(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 8, generator=g) * 5
    y = torch.log1p(x[:, 0]) + 0.3 * x[:, 1] + 0.1 * torch.randn(n, generator=g)
    off = torch.rand(n, 8, generator=g) < 0.02
    x[off] = -1.0  # missing value code of the meter
    return TensorDataset(x, y)


def train(model, loader, optimizer, epoch):
    model.train()
    total, count, skipped = 0.0, 0, 0
    for x, y in loader:
        pred = model(x)
        loss = torch.nn.functional.mse_loss(pred, y)
        if torch.isnan(loss):  # cause: BB504
            skipped += 1
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        count += 1
    print(f"epoch {epoch} loss {total / max(count, 1):.4f}")


def test(model, loader):
    model.eval()
    err = n = 0
    with torch.no_grad():
        for x, y in loader:
            ok = (x > 0).all(1)
            err += (model(x[ok]) - y[ok]).abs().sum().item()
            n += int(ok.sum())
    print(f"   test mae {err / n:.4f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    train_loader, test_loader = DataLoader(meters(640, 0), 64, shuffle=True), DataLoader(meters(100, 1), 100)
    model = LoadForecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(3):
        train(model, train_loader, optimizer, epoch)
        test(model, test_loader)
