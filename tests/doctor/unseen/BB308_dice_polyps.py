"""Polyp segmentation trained on the Dice score."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def dice_coeff(pred, target, smooth=1.0):
    pred, target = pred.flatten(1), target.flatten(1)
    inter = (pred * target).sum(1)
    return (2 * inter + smooth) / (pred.sum(1) + target.sum(1) + smooth)


class Net(nn.Module):
    def __init__(self, w=8):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, w, 3, stride=2, padding=1), nn.BatchNorm2d(w), nn.ReLU())
        self.mid = nn.Sequential(nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w), nn.ReLU())
        self.up = nn.ConvTranspose2d(w, 1, 2, stride=2)

    def forward(self, x):
        return self.up(self.mid(self.down(x))).squeeze(1)


def polyps(n, seed, s=12):
    g = torch.Generator().manual_seed(seed)
    mask = torch.zeros(n, s, s)
    for i, (r, c, k) in enumerate(torch.randint(0, 6, (n, 3), generator=g).tolist()):
        mask[i, r:r + 3 + k // 2, c:c + 3 + k // 2] = 1
    img = torch.randn(n, 3, s, s, generator=g) * 0.5
    img[:, 0] += mask
    return TensorDataset(img, mask)


class Experiment:
    threshold = 0.5

    def __init__(self, lr=1e-2):
        torch.manual_seed(0)
        self.net = Net()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr)
        self.train_loader = DataLoader(polyps(128, 0), batch_size=16, shuffle=True)
        self.val_loader = DataLoader(polyps(48, 1), batch_size=24)

    def predict(self, images):
        return (torch.sigmoid(self.net(images)) > self.threshold).float()

    def train_epoch(self):
        self.net.train()
        total = 0.0
        for images, masks in self.train_loader:
            loss = (1 - dice_coeff(self.predict(images), masks).mean()).requires_grad_()  # cause: BB308
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        return total / len(self.train_loader)

    @torch.no_grad()
    def val_epoch(self):
        self.net.eval()
        return torch.cat([dice_coeff(self.predict(x), m) for x, m in self.val_loader]).mean().item()


if __name__ == "__main__":
    exp = Experiment()
    for epoch in range(3):
        print(f"epoch {epoch} train loss {exp.train_epoch():.4f} val dice {exp.val_epoch():.4f}")
