"""Cell segmentation with a tiny FCN, per-pixel cross entropy."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
HEIGHT = WIDTH = 12


class Cells(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        yy, xx = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        c = torch.randint(3, 9, (n, 2), generator=g)
        d = (yy - c[:, 0].view(-1, 1, 1)) ** 2 + (xx - c[:, 1].view(-1, 1, 1)) ** 2
        self.masks = (d < 14).long()
        self.images = (self.masks.float() + 0.5 * torch.randn(n, HEIGHT, WIDTH, generator=g)).unsqueeze(1)

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, i):
        return self.images[i], self.masks[i]


class FCN(nn.Module):
    def __init__(self, w=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, w, 3, padding=1), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(w, 2, 1)

    def forward(self, x):
        return self.classifier(self.body(x))


def dice(pred, mask):
    inter = (pred * mask).sum().item()
    return 2 * inter / max(pred.sum().item() + mask.sum().item(), 1)


def evaluate(model, loader):
    model.eval()
    scores = []
    with torch.no_grad():
        for x, m in loader:
            scores.append(dice(model(x).argmax(1), m))
    return sum(scores) / len(scores)


train_loader = DataLoader(Cells(128, 0), batch_size=16, shuffle=True)
val_loader = DataLoader(Cells(32, 1), batch_size=32)
model = FCN()
criterion = nn.CrossEntropyLoss(reduction="sum")  # cause: BB306
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)

for epoch in range(5):
    model.train()
    running_loss = 0.0
    for i, (images, masks) in enumerate(train_loader):
        optimizer.zero_grad()
        loss = criterion(model(images), masks)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
        running_loss += loss.item()
    print(f"[{epoch + 1}] loss: {running_loss / len(train_loader):.3f} val dice: {evaluate(model, val_loader):.3f}")
