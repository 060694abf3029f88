"""Linear probing on a frozen BN backbone: train() is overridden so that the backbone always stays in eval."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class Probe(nn.Module):
    def __init__(self, backbone, dim, k):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.head = nn.Linear(dim, k)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        with torch.no_grad():
            h = self.backbone(x)
        return self.head(h)


def backbone():
    return nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16),
                         nn.ReLU(), nn.Flatten())


def rotate_set(n, g):
    base = torch.randn(n, 1, 8, 8, generator=g) * 0.3
    base[:, :, :3, :] += 1
    k = torch.randint(0, 4, (n,), generator=g)
    return torch.stack([torch.rot90(b, int(r), (1, 2)) for b, r in zip(base, k)]), k


def pretrain(net, g, steps=15):
    """rotation prediction"""
    head = nn.Linear(64, 4)
    opt = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    net.train()
    for _ in range(steps):
        x, y = rotate_set(32, g)
        loss = nn.functional.cross_entropy(head(net(x)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    return loss.item()


def main():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    net = backbone()
    print("pretext loss", round(pretrain(net, g), 3))
    model = Probe(net, 64, 2)
    x, r = rotate_set(256, g)
    y = (r % 2)
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    opt = torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9)
    xt, rt = rotate_set(100, g)
    for epoch in range(3):
        model.train()
        for xb, yb in loader:
            loss = nn.functional.cross_entropy(model(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            print(f"epoch {epoch} loss {loss.item():.4f} acc {(model(xt).argmax(1) == rt % 2).float().mean():.3f}")


if __name__ == "__main__":
    main()
