"""Molecular property prediction, 6 assays, most labels missing (NaN): masked BCE normalised by the number of labels."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Assays(Dataset):
    def __init__(self, n, seed, tasks=6):
        g = torch.Generator().manual_seed(seed)
        self.x = (torch.rand(n, 40, generator=g) < 0.2).float()
        w = torch.randn(40, tasks, generator=torch.Generator().manual_seed(4))
        self.y = (self.x @ w > 0).float()
        self.y[torch.rand(n, tasks, generator=g) < 0.6] = float("nan")

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def masked_bce(logits, target):
    mask = ~torch.isnan(target)
    safe = torch.nan_to_num(target, nan=0.0)
    loss = F.binary_cross_entropy_with_logits(logits, safe, reduction="none")
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def evaluate(model, loader):
    model.eval()
    ok = n = 0
    with torch.no_grad():
        for x, y in loader:
            m = ~torch.isnan(y)
            ok += (((model(x) > 0).float() == y) & m).sum().item()
            n += m.sum().item()
    return ok / n


if __name__ == "__main__":
    torch.manual_seed(0)
    train, val = DataLoader(Assays(400, 0), 40, shuffle=True), DataLoader(Assays(100, 1), 50)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 6))
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(4):
        model.train()
        for x, y in train:
            loss = masked_bce(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        print(f"epoch {epoch} loss {loss.item():.4f} val acc on known labels {evaluate(model, val):.3f}")
