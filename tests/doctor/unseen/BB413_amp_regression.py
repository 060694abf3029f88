"""Mixed precision regression of sensor counts (runs on CPU with fp16 autocast too)."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

device = "cuda" if torch.cuda.is_available() else "cpu"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.seq(x).squeeze(-1)


def counts(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=g)
    return TensorDataset(x, 300 + 80 * x[:, 0] - 60 * x[:, 1])


def train_fn(loader, model, optimizer, loss_fn):
    model.train()
    total = 0.0
    for data, targets in loader:
        scaler = torch.amp.GradScaler(device)  # cause: BB413
        data, targets = data.to(device), targets.to(device)
        with torch.autocast(device, dtype=torch.float16):
            predictions = model(data)
            loss = loss_fn(predictions.float(), targets)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        total += loss.item()
    return total / len(loader)


def val_fn(loader, model):
    model.eval()
    err = 0.0
    with torch.no_grad(), torch.autocast(device, dtype=torch.float16):
        for data, targets in loader:
            err += (model(data).float() - targets).abs().sum().item()
    return err / len(loader.dataset)


def main():
    torch.manual_seed(0)
    train_loader, val_loader = DataLoader(counts(256, 0), 16, shuffle=True), DataLoader(counts(64, 1), 64)
    model = Net().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(3):
        loss = train_fn(train_loader, model, optimizer, nn.MSELoss())
        print(f"epoch {epoch} mse {loss:.1f} val mae {val_fn(val_loader, model):.1f}")


if __name__ == "__main__":
    main()
