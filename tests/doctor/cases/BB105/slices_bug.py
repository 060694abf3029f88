"""Classifier of sensor windows with early stopping; the arrays are cut by hand."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def load(n=120, length=10):
    generator = torch.Generator().manual_seed(1)
    windows = torch.randn(n, length, generator=generator)
    labels = (windows[:, :5].mean(1) > windows[:, 5:].mean(1)).long()
    return windows, labels


def accuracy(model, loader):
    model.eval()
    with torch.inference_mode():
        hits = [(model(w).argmax(1) == t).float() for w, t in loader]
    return torch.cat(hits).mean().item()


def main():
    torch.manual_seed(0)
    windows, labels = load()
    order = torch.randperm(len(windows))
    windows, labels = windows[order], labels[order]
    n_train = int(0.8 * len(windows))
    train_windows, train_labels = windows[:n_train], labels[:n_train]
    test_windows, test_labels = windows[n_train // 2 :], labels[n_train // 2 :]  # cause: BB105
    train_loader = DataLoader(TensorDataset(train_windows, train_labels), 16, shuffle=True)
    test_loader = DataLoader(TensorDataset(test_windows, test_labels), 32)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    best, waited = 0.0, 0
    for epoch in range(6):
        model.train()
        for w, t in train_loader:
            loss = F.cross_entropy(model(w), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        acc = accuracy(model, test_loader)
        print(f"{epoch}: {acc:.3f}")
        best, waited = (acc, 0) if acc > best else (best, waited + 1)
        if waited > 2:
            break


main()
