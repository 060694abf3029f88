"""Fraud detection with a weighted BCE for the 8% positives."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def transactions(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=g)
    score = x[:, 0] + x[:, 1] * 0.8 + 0.6 * torch.randn(n, generator=g)
    y = (score > 2.0).float()
    return x, y


def recall_precision(logits, y):
    pred = (logits > 0).float()
    tp = (pred * y).sum().item()
    return tp / max(y.sum().item(), 1), tp / max(pred.sum().item(), 1)


class FraudNet(nn.Module):
    def __init__(self, d=10):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x).squeeze(1)


def main():
    torch.manual_seed(0)
    x, y = transactions(800, 0)
    xv, yv = transactions(400, 1)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
    n_pos, n_neg = y.sum(), (1 - y).sum()
    print(f"positives {n_pos:.0f} negatives {n_neg:.0f}")
    criterion = nn.BCEWithLogitsLoss(pos_weight=n_pos / n_neg)  # cause: BB309
    model = FraudNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(4):
        model.train()
        total = 0.0
        for xb, yb in loader:
            loss = criterion(model(xb), yb)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(xb)
        model.eval()
        with torch.no_grad():
            r, p = recall_precision(model(xv), yv)
        print(f"epoch {epoch} loss {total / len(x):.4f} recall {r:.3f} precision {p:.3f}")


if __name__ == "__main__":
    main()
