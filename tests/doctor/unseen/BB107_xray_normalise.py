"""Chest x-ray classifier. Images are kept in RAM as float tensors."""
import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def __call__(self, img):
        return img.sub_(self.mean).div_(self.std)  # cause: BB107


class XrayDataset(Dataset):
    def __init__(self, n, seed, transform):
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 2, (n,), generator=g)
        self.images = (torch.rand(n, 1, 10, 10, generator=g) * 200 + 20)
        self.images[:, :, 3:6, 3:6] += self.labels.view(-1, 1, 1, 1) * 60.0
        self.transform = transform

    def __getitem__(self, index):
        image = self.images[index]
        if self.transform:
            image = self.transform(image)
        return {"image": image, "target": self.labels[index].float()}

    def __len__(self):
        return self.images.shape[0]


def get_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 1), nn.Flatten(0))


def train_epoch(net, loader, optimizer, loss_fn):
    net.train()
    meter, n = 0.0, 0
    for batch in loader:
        logits = net(batch["image"])
        loss = loss_fn(logits, batch["target"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        meter += loss.item() * len(logits)
        n += len(logits)
    return meter / n


@torch.inference_mode()
def evaluate(net, loader):
    net.eval()
    ok = n = 0
    for batch in loader:
        pred = (net(batch["image"]) > 0).float()
        ok += (pred == batch["target"]).sum().item()
        n += len(pred)
    return ok / n


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", default=3, type=int)
    parser.add_argument("--batch-size", default=20, type=int)
    opt = parser.parse_args()
    torch.manual_seed(0)
    tf = Normalize(mean=120.0, std=60.0)
    train_loader = DataLoader(XrayDataset(240, 0, tf), opt.batch_size, shuffle=True)
    val_loader = DataLoader(XrayDataset(80, 1, tf), 40)
    net = get_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for e in range(opt.epochs):
        tr = train_epoch(net, train_loader, optimizer, nn.BCEWithLogitsLoss())
        print(f"epoch {e}: loss {tr:.4f} val acc {evaluate(net, val_loader):.3f}")
