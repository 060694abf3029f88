import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class TabularResNet(nn.Module):
    """RTDL-like ResNet for tabular data."""

    def __init__(self, n_features, d=32, n_blocks=2, dropout=0.4):
        super().__init__()
        self.first = nn.Linear(n_features, d)
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(n_blocks))
        self.lins0 = nn.ModuleList(nn.Linear(d, 2 * d) for _ in range(n_blocks))
        self.lins1 = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(n_blocks))
        self.dropout = dropout
        self.last = nn.Linear(d, 1)

    def forward(self, x):
        x = self.first(x)
        for norm, l0, l1 in zip(self.norms, self.lins0, self.lins1):
            z = F.relu(l0(norm(x)))
            z = F.dropout(z, self.dropout)  # cause: BB203
            x = x + l1(z)
        return self.last(F.relu(x)).squeeze(1)


def california(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=g)
    y = 2 * x[:, 0] + torch.sin(2 * x[:, 1]) + x[:, 2] * x[:, 3] + 0.1 * torch.randn(n, generator=g)
    return x, y


def rmse(model, loader):
    model.eval()
    se = 0.0
    with torch.no_grad():
        for x, y in loader:
            se += F.mse_loss(model(x), y, reduction="sum").item()
    return (se / len(loader.dataset)) ** 0.5


if __name__ == "__main__":
    torch.manual_seed(17)
    xtr, ytr = california(320, 0)
    mu, sd = ytr.mean(), ytr.std()
    xva, yva = california(100, 1)
    train_loader = DataLoader(TensorDataset(xtr, (ytr - mu) / sd), batch_size=32, shuffle=True)
    val_loader = DataLoader(TensorDataset(xva, (yva - mu) / sd), batch_size=100)
    model = TabularResNet(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-5)
    best = float("inf")
    for epoch in range(4):
        model.train()
        for x, y in train_loader:
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = rmse(model, val_loader)
        flag = "*" if score < best else ""
        best = min(best, score)
        print(f"epoch {epoch} val rmse {score * sd:.4f} {flag}")
    print("two evaluations of the same weights:", rmse(model, val_loader), rmse(model, val_loader))
