"""Movie recommendation by matrix factorisation."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class Ratings(Dataset):
    def __init__(self, n, seed, users=40, items=30, rank=3):
        base = np.random.RandomState(12)
        U, V = base.randn(users, rank), base.randn(items, rank)
        rs = np.random.RandomState(seed)
        self.u, self.i = rs.randint(0, users, n), rs.randint(0, items, n)
        self.r = (3 + (U[self.u] * V[self.i]).sum(1) * 0.7 + 0.1 * rs.randn(n)).astype(np.float32)

    def __len__(self):
        return len(self.r)

    def __getitem__(self, k):
        return self.u[k], self.i[k], self.r[k]


class MF(nn.Module):
    def __init__(self, users, items, k=8):
        super().__init__()
        self.P, self.Q = nn.Embedding(users, k), nn.Embedding(items, k)
        self.bu, self.bi = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.mu = nn.Parameter(torch.tensor(3.0))
        for e in (self.P, self.Q):
            nn.init.normal_(e.weight, std=0.3)
        for e in (self.bu, self.bi):
            nn.init.zeros_(e.weight)

    def forward(self, u, i):
        return self.mu + self.bu(u).squeeze(-1) + self.bi(i).squeeze(-1) + (self.P(u) * self.Q(i)).sum(-1)


def rmse(model, loader):
    model.eval()
    se = n = 0
    with torch.no_grad():
        for u, i, r in loader:
            se += ((model(u, i) - r) ** 2).sum().item()
            n += len(r)
    return (se / n) ** 0.5


def main():
    torch.manual_seed(0)
    train, test = DataLoader(Ratings(640, 0), 64, shuffle=True), DataLoader(Ratings(200, 1), 200)
    model = MF(40, 30)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    loss_fn = nn.MSELoss()
    for epoch in range(4):
        model.train()
        losses = []
        for u, i, r in train:
            optimizer.zero_grad()
            loss = loss_fn(model(u, i), r)
            optimizer.step()  # cause: BB405
            loss.backward()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}  train mse {np.mean(losses):.4f}  test rmse {rmse(model, test):.4f}")


main()
