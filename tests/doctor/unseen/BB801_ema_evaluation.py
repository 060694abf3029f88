"""Conv net with an EMA of the weights for evaluation."""
import copy
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class ModelEMA:
    def __init__(self, model, decay=0.9):
        self.module = copy.deepcopy(model).eval()
        self.decay = decay
        for p in self.module.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for ema_p, p in zip(self.module.parameters(), model.parameters()):  # cause: BB801
            ema_p.mul_(self.decay).add_(p, alpha=1 - self.decay)


class ConvBN(nn.Sequential):
    def __init__(self, i, o, s=1):
        super().__init__(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def net(w=10, k=4):
    return nn.Sequential(ConvBN(3, w), ConvBN(w, w, 2), ConvBN(w, w, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, k))


def photos(n, seed, k=4):
    proto = torch.randn(k, 3, 8, 8, generator=torch.Generator().manual_seed(21))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    return TensorDataset(proto[y] * 20 + 25 * torch.randn(n, 3, 8, 8, generator=g) + 110, y)


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def main():
    torch.manual_seed(0)
    loader, val = DataLoader(photos(320, 0), 16, shuffle=True), DataLoader(photos(100, 1), 100)
    model = net()
    ema = ModelEMA(model)
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(3):
        model.train()
        for x, y in loader:
            loss = criterion(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            ema.update(model)
        print(f"epoch {epoch} loss {loss.item():.3f} ema acc {evaluate(ema.module, val):.3f} raw acc {evaluate(model, val):.3f}")


if __name__ == "__main__":
    main()
