"""Image denoising with a mini U-Net; validation after every epoch."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def conv_bn(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.1))


class MiniUNet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.enc1, self.enc2 = conv_bn(1, c), conv_bn(c, 2 * c)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.dec = conv_bn(3 * c, c)
        self.drop = nn.Dropout2d(0.2)
        self.out = nn.Conv2d(c, 1, 1)

    def forward(self, x):
        a = self.enc1(x)
        b = self.enc2(self.pool(a))
        return self.out(self.drop(self.dec(torch.cat([a, self.up(b)], 1))))


def shapes(n, seed, sigma=0.4):
    g = torch.Generator().manual_seed(seed)
    clean = torch.zeros(n, 1, 12, 12)
    pos = torch.randint(0, 8, (n, 2), generator=g)
    for i, (r, c) in enumerate(pos.tolist()):
        clean[i, 0, r:r + 4, c:c + 4] = 1.0
    return TensorDataset(clean + sigma * torch.randn(clean.shape, generator=g) + 3.0, clean)


def validate(model, loader, criterion):
    model.eval()  # cause: BB202
    total = 0.0
    with torch.no_grad():
        for noisy, clean in loader:
            total += criterion(model(noisy), clean).item() * len(clean)
    return total / len(loader.dataset)


def train(num_epochs=3):
    torch.manual_seed(1)
    train_loader = DataLoader(shapes(160, 0), batch_size=16, shuffle=True)
    val_loader = DataLoader(shapes(48, 1), batch_size=48)
    model = MiniUNet()
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)

    model.train()
    for epoch in range(num_epochs):
        epoch_loss = 0.0
        for noisy, clean in train_loader:
            optimizer.zero_grad()
            loss = criterion(model(noisy), clean)
            loss.backward()
            optimizer.step()
            epoch_loss += loss.item() * len(noisy)
        val_loss = validate(model, val_loader, criterion)
        scheduler.step(val_loss)
        print("Epoch %d/%d  train %.4f  val %.4f" % (epoch + 1, num_epochs, epoch_loss / 160, val_loss))


if __name__ == "__main__":
    train()
