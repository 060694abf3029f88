"""Patch classifier with photometric augmentation. Loader workers do the augmentation."""
import argparse
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class PatchDataset(Dataset):
    def __init__(self, images, labels, train=True, seed=0):
        self.images = images
        self.labels = labels
        self.train = train
        self.rng = np.random.default_rng(seed)  # cause: BB101

    def __len__(self):
        return len(self.labels)

    def _augment(self, img):
        dx, dy = self.rng.integers(0, 5, size=2)
        img = np.roll(img, (int(dx), int(dy)), axis=(1, 2))
        gain = self.rng.uniform(0.6, 1.4)
        noise = self.rng.normal(0, 0.3, size=img.shape)
        return (img * gain + noise).astype(np.float32)

    def __getitem__(self, idx):
        img = self.images[idx]
        if self.train:
            img = self._augment(img)
        return torch.from_numpy(img), int(self.labels[idx])


def make_data(n, rs):
    y = rs.integers(0, 4, size=n)
    x = rs.normal(0, 0.5, size=(n, 3, 12, 12)).astype(np.float32)
    for i, c in enumerate(y):
        x[i, c % 3, c * 3:c * 3 + 3] += 1.0
    return x, y


def build_model(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3),
                         nn.Flatten(), nn.Linear(width * 9, 4))


def run_epoch(model, loader, criterion, optimizer=None):
    training = optimizer is not None
    model.train(training)
    total, correct, n = 0.0, 0, 0
    with torch.set_grad_enabled(training):
        for x, y in loader:
            out = model(x)
            loss = criterion(out, y)
            if training:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(y)
            correct += (out.argmax(1) == y).sum().item()
            n += len(y)
    return total / n, correct / n


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--epochs", type=int, default=3)
    ap.add_argument("--workers", type=int, default=2)
    ap.add_argument("--lr", type=float, default=3e-3)
    args = ap.parse_args()
    torch.manual_seed(0)
    rs = np.random.default_rng(7)
    xtr, ytr = make_data(192, rs)
    xva, yva = make_data(64, rs)
    train_loader = DataLoader(PatchDataset(xtr, ytr), batch_size=16, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(PatchDataset(xva, yva, train=False), batch_size=32)
    model = build_model(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(args.epochs):
        tr = run_epoch(model, train_loader, criterion, optimizer)
        va = run_epoch(model, val_loader, criterion)
        print(f"epoch {epoch}: train {tr[0]:.3f}/{tr[1]:.2f}  val {va[0]:.3f}/{va[1]:.2f}")


if __name__ == "__main__":
    main()
