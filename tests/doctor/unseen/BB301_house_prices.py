"""House price regression, RMSLE-like loss."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class HouseDataset(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.X = torch.randn(n, 12, generator=g)
        w = torch.randn(12, generator=torch.Generator().manual_seed(0))
        self.y = 12 + 0.4 * (self.X @ w) + 0.05 * torch.randn(n, generator=g)  # log price

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.X[i], self.y[i]


class RMSELoss(nn.Module):
    def __init__(self, eps=1e-6):
        super().__init__()
        self.eps = eps

    def forward(self, yhat, y):
        return torch.sqrt(torch.mean((yhat - y) ** 2) + self.eps)  # cause: BB301


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.layers[-1].bias.data.fill_(12.0)

    def forward(self, x):
        return self.layers(x)


def main():
    torch.manual_seed(2)
    train_loader = DataLoader(HouseDataset(320, 1), batch_size=32, shuffle=True)
    valid_loader = DataLoader(HouseDataset(96, 2), batch_size=32)
    model, criterion = Regressor(), RMSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(5):
        model.train()
        tr = []
        for X, y in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(X), y)
            loss.backward()
            optimizer.step()
            tr.append(loss.item())
        model.eval()
        preds, ys = [], []
        with torch.no_grad():
            for X, y in valid_loader:
                preds.append(model(X).flatten())
                ys.append(y)
        preds, ys = torch.cat(preds), torch.cat(ys)
        print(f"Epoch {epoch + 1}: train {sum(tr) / len(tr):.4f}  valid MAE {(preds - ys).abs().mean():.4f}  pred std {preds.std():.4f} true std {ys.std():.4f}")


if __name__ == "__main__":
    main()
