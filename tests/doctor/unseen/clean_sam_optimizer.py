"""Sharpness-aware minimisation: two forward-backward passes per update, weights perturbed and restored, BN running stats frozen on pass 2."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class SAM:
    def __init__(self, params, base, rho=0.05):
        self.params, self.base, self.rho = list(params), base, rho

    @torch.no_grad()
    def ascend(self):
        norm = torch.stack([p.grad.norm() for p in self.params if p.grad is not None]).norm()
        self.backup = [p.detach().clone() for p in self.params]
        for p in self.params:
            if p.grad is not None:
                p.add_(p.grad, alpha=self.rho / (norm.item() + 1e-12))
        self.base.zero_grad()

    @torch.no_grad()
    def descend(self):
        for p, b in zip(self.params, self.backup):
            p.copy_(b)
        self.base.step()
        self.base.zero_grad()


def set_bn_momentum(model, freeze):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            if freeze:
                m.backup_momentum, m.momentum = m.momentum, 0.0
            elif hasattr(m, "backup_momentum"):
                m.momentum = m.backup_momentum


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=g)
    return TensorDataset(x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).long())


if __name__ == "__main__":
    torch.manual_seed(0)
    loader, test = DataLoader(data(320, 0), 32, shuffle=True), data(150, 1).tensors
    model = nn.Sequential(nn.Linear(10, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sam = SAM(model.parameters(), base)
    crit = nn.CrossEntropyLoss()
    for epoch in range(3):
        model.train()
        for x, y in loader:
            loss = crit(model(x), y)
            loss.backward()
            sam.ascend()
            set_bn_momentum(model, True)
            crit(model(x), y).backward()
            set_bn_momentum(model, False)
            sam.descend()
        model.eval()
        with torch.no_grad():
            print(f"epoch {epoch} loss {loss.item():.4f} acc {(model(test[0]).argmax(1) == test[1]).float().mean():.3f}")
