"""Multi-task: segmentation-like head and depth-like head over one shared encoder, one optimizer per task."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class MTLNet(nn.Module):
    def __init__(self, d=16, h=32):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
        self.cls_head = nn.Linear(h, 3)
        self.depth_head = nn.Linear(h, 1)

    def forward(self, x):
        h = self.encoder(x)
        return self.cls_head(h), self.depth_head(h).squeeze(-1)


def scene(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=g)
    cls = torch.stack([x[:, 0], x[:, 1] * x[:, 2], x[:, 3]], 1).argmax(1)
    return TensorDataset(x, cls, torch.sin(x[:, 0]) + x[:, 4])


def evaluate(net, loader):
    net.eval()
    acc, err, n = 0, 0.0, 0
    with torch.no_grad():
        for x, c, d in loader:
            lo, dp = net(x)
            acc += (lo.argmax(1) == c).sum().item()
            err += (dp - d).abs().sum().item()
            n += len(x)
    return acc / n, err / n


def main():
    torch.manual_seed(0)
    loader, val = DataLoader(scene(320, 0), 32, shuffle=True), DataLoader(scene(100, 1), 100)
    net = MTLNet()
    cls_params = list(net.encoder.parameters()) + list(net.cls_head.parameters())
    depth_params = list(net.encoder.parameters()) + list(net.depth_head.parameters())
    opt_cls = torch.optim.SGD(cls_params, lr=0.15, momentum=0.9)
    opt_depth = torch.optim.SGD(depth_params, lr=0.15, momentum=0.9)  # cause: BB409
    for epoch in range(4):
        net.train()
        tot = 0.0
        for x, c, d in loader:
            logits, depth = net(x)
            loss = F.cross_entropy(logits, c) + F.mse_loss(depth, d)
            opt_cls.zero_grad()
            opt_depth.zero_grad()
            loss.backward()
            opt_cls.step()
            opt_depth.step()
            tot += loss.item()
        acc, mae = evaluate(net, val)
        print(f"epoch {epoch} loss {tot / len(loader):.4f} acc {acc:.3f} depth mae {mae:.3f}")


if __name__ == "__main__":
    main()
