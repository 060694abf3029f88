"""Fine-tune a pretrained backbone on a new label set."""
import torch
import torch.nn as nn
import torch.optim as optim
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset


class SmallNet(nn.Module):
    def __init__(self, num_classes=100):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Linear(48, num_classes)

    def forward(self, x):
        return self.fc(self.features(x))


class Finetuner:
    def __init__(self, net, lr=0.05):
        self.net = net
        self.optimizer = optim.SGD(self.net.parameters(), lr=lr, momentum=0.9)
        self.scheduler = lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)
        self.criterion = nn.CrossEntropyLoss()

    def set_num_classes(self, n):
        self.net.fc = nn.Linear(self.net.fc.in_features, n)  # cause: BB404

    def train_epoch(self, loader):
        self.net.train()
        s = 0.0
        for x, y in loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.net(x), y)
            loss.backward()
            self.optimizer.step()
            s += loss.item()
        self.scheduler.step()
        return s / len(loader)

    @torch.no_grad()
    def accuracy(self, loader):
        self.net.eval()
        return sum((self.net(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def birds(n, seed, k=4):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    x = torch.randn(n, 3, 8, 8, generator=g) * 0.6
    for i, c in enumerate(y.tolist()):
        x[i, c % 3, (c // 2) * 4:(c // 2) * 4 + 4] += 0.8
    return TensorDataset(x, y)


if __name__ == "__main__":
    torch.manual_seed(0)
    tuner = Finetuner(SmallNet())
    tuner.set_num_classes(4)
    tr, va = DataLoader(birds(256, 0), 16, shuffle=True), DataLoader(birds(96, 1), 48)
    for epoch in range(3):
        print(f"epoch {epoch} loss {tuner.train_epoch(tr):.4f} acc {tuner.accuracy(va):.3f}")
