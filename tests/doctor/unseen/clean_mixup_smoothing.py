"""Mixup + label smoothing with soft targets; the train accuracy printed is against the dominant label."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

K, ALPHA, SMOOTH = 4, 0.4, 0.1
np.random.seed(0)
torch.manual_seed(0)


def mixup(x, y):
    lam = float(np.random.beta(ALPHA, ALPHA))
    lam = max(lam, 1 - lam)
    idx = torch.randperm(len(x))
    t = F.one_hot(y, K).float() * (1 - SMOOTH) + SMOOTH / K
    return lam * x + (1 - lam) * x[idx], lam * t + (1 - lam) * t[idx]


class SoftTargetCrossEntropy(nn.Module):
    def forward(self, logits, target):
        return torch.sum(-target * F.log_softmax(logits, dim=-1), dim=-1).mean()


def dataset(n, seed):
    proto = torch.randn(K, 12, generator=torch.Generator().manual_seed(2))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, K, (n,), generator=g)
    return TensorDataset(proto[y] + 0.9 * torch.randn(n, 12, generator=g), y)


train_loader, val_loader = DataLoader(dataset(320, 0), 32, shuffle=True), DataLoader(dataset(96, 1), 48)
model = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Dropout(0.1), nn.Linear(48, K))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
train_criterion, val_criterion = SoftTargetCrossEntropy(), nn.CrossEntropyLoss()
for epoch in range(3):
    model.train()
    tot = 0.0
    for x, y in train_loader:
        mx, mt = mixup(x, y)
        loss = 0.5 * train_criterion(model(mx), mt) + 0.5 * F.cross_entropy(model(mx), mt)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tot += loss.item()
    model.eval()
    vl = acc = n = 0
    with torch.no_grad():
        for x, y in val_loader:
            out = model(x)
            vl += val_criterion(out, y).item() * len(y)
            acc += (out.argmax(1) == y).sum().item()
            n += len(y)
    print(f"epoch {epoch} train {tot / len(train_loader):.4f} val {vl / n:.4f} acc {acc / n:.3f}")
