"""U-Net-ish mask training with AMP; same recipe on GPU and CPU."""
import argparse
import logging

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")


class UNet(nn.Module):
    def __init__(self, n_channels=1, n_classes=1, w=8):
        super().__init__()
        self.inc = nn.Sequential(nn.Conv2d(n_channels, w, 3, padding=1), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(w, w * 2, 3, padding=1), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(w * 2, w, 2, stride=2)
        self.outc = nn.Conv2d(w * 2, n_classes, 1)

    def forward(self, x):
        a = self.inc(x)
        return self.outc(torch.cat([a, self.up(self.down(a))], 1))


def make(n, seed, s=12):
    g = torch.Generator().manual_seed(seed)
    m = torch.zeros(n, 1, s, s)
    for i, (r, c) in enumerate(torch.randint(0, 7, (n, 2), generator=g).tolist()):
        m[i, 0, r:r + 5, c:c + 5] = 1
    return TensorDataset(m + 0.5 * torch.randn(n, 1, s, s, generator=g), m)


@torch.inference_mode()
def evaluate(net, loader, device, amp):
    net.eval()
    num = den = 0.0
    with torch.autocast(device.type, dtype=torch.float16 if device.type == "cuda" else torch.bfloat16, enabled=amp):
        for image, mask in loader:
            pred = (torch.sigmoid(net(image)) > 0.5).float()
            num += 2 * (pred * mask).sum().item()
            den += (pred.sum() + mask.sum()).item()
    return num / max(den, 1)


def train_model(model, device, epochs, batch_size, learning_rate, amp=True, gradient_clipping=1.0):
    train_loader, val_loader = DataLoader(make(160, 0), batch_size, shuffle=True), DataLoader(make(32, 1), 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    grad_scaler = torch.amp.GradScaler(device.type, enabled=amp)
    criterion = nn.BCEWithLogitsLoss()
    for epoch in range(1, epochs + 1):
        model.train()
        epoch_loss = 0.0
        for images, true_masks in train_loader:
            with torch.autocast(device.type, dtype=torch.float16 if device.type == "cuda" else torch.bfloat16, enabled=amp):
                loss = criterion(model(images), true_masks)
            optimizer.zero_grad(set_to_none=True)
            grad_scaler.scale(loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clipping)  # cause: BB501
            grad_scaler.step(optimizer)
            grad_scaler.update()
            epoch_loss += loss.item()
        logging.info(f"epoch {epoch} loss {epoch_loss / len(train_loader):.4f} dice {evaluate(model, val_loader, device, amp):.4f}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=3)
    p.add_argument("--lr", type=float, default=0.1)
    a = p.parse_args()
    torch.manual_seed(0)
    dev = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_model(UNet().to(dev), dev, a.epochs, 16, a.lr)
