"""Box regression with gradient accumulation (small GPU recipe)."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Boxes(Dataset):
    def __init__(self, n, seed, s=12):
        g = torch.Generator().manual_seed(seed)
        x0 = torch.randint(0, 6, (n, 2), generator=g)
        wh = torch.randint(3, 6, (n, 2), generator=g)
        self.img = 0.3 * torch.randn(n, 1, s, s, generator=g)
        for i in range(n):
            (r, c), (h, w) = x0[i].tolist(), wh[i].tolist()
            self.img[i, 0, r:r + h, c:c + w] += 1
        self.box = torch.cat([x0, x0 + wh], 1).float() / s

    def __len__(self):
        return len(self.img)

    def __getitem__(self, i):
        return self.img[i], self.box[i]


class BoxNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(16 * 9, 4)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


def iou(a, b):
    lt, rb = torch.max(a[:, :2], b[:, :2]), torch.min(a[:, 2:], b[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    area = lambda t: (t[:, 2:] - t[:, :2]).clamp(min=0).prod(1)
    return inter / (area(a) + area(b) - inter + 1e-6)


def train_one_epoch(model, loader, optimizer, accumulate):
    model.train()
    total = 0.0
    for i, (img, box) in enumerate(loader):
        optimizer.zero_grad()  # cause: BB403
        loss = F.smooth_l1_loss(model(img), box)
        (loss / accumulate).backward()
        if (i + 1) % accumulate == 0:
            optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    return torch.cat([iou(model(img), box) for img, box in loader]).mean().item()


def main(epochs=3, batch_size=4, accumulate=8):
    torch.manual_seed(0)
    train_loader = DataLoader(Boxes(256, 0), batch_size, shuffle=True)
    val_loader = DataLoader(Boxes(64, 1), 64)
    model = BoxNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for epoch in range(epochs):
        loss = train_one_epoch(model, train_loader, optimizer, accumulate)
        print(f"epoch {epoch} loss {loss:.4f} mIoU {evaluate(model, val_loader):.3f}")


if __name__ == "__main__":
    main()
