"""Semantic segmentation trainer (config dict, class based)."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

cfg = dict(classes=3, width=10, epochs=3, batch=8, lr=2e-3, size=12)


class Roads(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.mask = torch.zeros(n, cfg["size"], cfg["size"], dtype=torch.long)
        cols = torch.randint(1, cfg["size"] - 4, (n,), generator=g).tolist()
        for i, c in enumerate(cols):
            self.mask[i, :, c:c + 2] = 1
            self.mask[i, :, c + 2:c + 4] = 2
        color = torch.tensor([[0.1, 0.6, 0.2], [0.4, 0.4, 0.4], [0.8, 0.7, 0.1]])
        self.img = color[self.mask].permute(0, 3, 1, 2) + 0.6 * torch.randn(n, 3, cfg["size"], cfg["size"], generator=g)

    def __len__(self):
        return len(self.img)

    def __getitem__(self, i):
        return self.img[i], self.mask[i]


class SegNet(nn.Module):
    def __init__(self, classes, w):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(inplace=True),
                                     nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU(inplace=True))
        self.decoder = nn.Conv2d(w, classes, 1)
        self.activation = nn.Softmax(dim=1)

    def forward(self, x):
        return self.activation(self.decoder(self.encoder(x)))


def mean_iou(pred, target, k):
    ious = []
    for c in range(k):
        inter = ((pred == c) & (target == c)).sum().item()
        union = ((pred == c) | (target == c)).sum().item()
        ious.append(inter / max(union, 1))
    return sum(ious) / k


class SegTrainer:
    def __init__(self):
        self.model = SegNet(cfg["classes"], cfg["width"])
        self.criterion = nn.CrossEntropyLoss(ignore_index=255)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=cfg["lr"])
        self.loaders = {"train": DataLoader(Roads(96, 0), cfg["batch"], shuffle=True), "val": DataLoader(Roads(32, 1), 16)}

    def step(self, batch):
        img, mask = batch
        out = self.model(img)
        loss = self.criterion(out, mask)  # cause: BB302
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def run(self):
        for ep in range(cfg["epochs"]):
            self.model.train()
            hist = [self.step(b) for b in self.loaders["train"]]
            self.model.eval()
            with torch.no_grad():
                preds, masks = zip(*[(self.model(img).argmax(1), mask) for img, mask in self.loaders["val"]])
                miou = mean_iou(torch.cat(preds), torch.cat(masks), cfg["classes"])
            print(f"ep {ep} loss {sum(hist) / len(hist):.4f} val mIoU {miou:.4f}")


if __name__ == "__main__":
    torch.manual_seed(0)
    SegTrainer().run()
