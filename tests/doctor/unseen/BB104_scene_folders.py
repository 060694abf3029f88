"""Scene classification, ImageFolder-like layout: files are listed class by class."""
import logging
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

logging.basicConfig(level=logging.INFO, format="%(message)s")
log = logging.getLogger("scenes")

CLASSES = ["beach", "city", "desert", "forest"]


class SceneFolder(Dataset):
    def __init__(self, root, per_class, seed):
        self.root = root
        self.samples = []
        g = torch.Generator().manual_seed(seed)
        for idx, cls in enumerate(CLASSES):
            for k in range(per_class):
                img = torch.randn(3, 8, 8, generator=g) * 0.8
                img[idx % 3] += 0.5
                img[:, :, idx * 2:idx * 2 + 2] += 0.5
                self.samples.append((f"{root}/{cls}/{k:05d}.jpg", img, idx))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        _, img, label = self.samples[i]
        return img, label


class SmallCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 16, 3, padding=1)
        self.c2 = nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16 * 16, len(CLASSES))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.relu(self.c2(x))
        return self.fc(x.flatten(1))


def accuracy(model, loader):
    model.eval()
    good = 0
    with torch.no_grad():
        for x, y in loader:
            good += (model(x).argmax(1) == y).sum().item()
    return good / len(loader.dataset)


def main():
    torch.manual_seed(42)
    train_ds = SceneFolder("data/train", 64, seed=0)
    val_ds = SceneFolder("data/val", 16, seed=1)
    train_dl = DataLoader(train_ds, batch_size=16, drop_last=True)  # cause: BB104
    val_dl = DataLoader(val_ds, batch_size=32, shuffle=False)
    net = SmallCNN()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(1, 4):
        net.train()
        losses = []
        for images, targets in train_dl:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        log.info("epoch %d  loss first %.3f last %.3f  val acc %.3f", epoch, losses[0], losses[-1], accuracy(net, val_dl))


if __name__ == "__main__":
    main()
