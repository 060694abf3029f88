"""Gradual unfreezing with discriminative learning rates: all groups are in the optimizer, frozen ones have no gradient for a while."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.ReLU()),
                                     nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU())])
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        for s in self.stages:
            x = s(x)
        return self.head(x)

    def freeze_to(self, n):
        groups = [*self.stages, self.head]
        for i, m in enumerate(groups):
            m.requires_grad_(i >= n)


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 12, generator=g)
    return TensorDataset(x, torch.stack([x[:, 0] * x[:, 1], x[:, 2], x[:, 3].abs() - 0.8], 1).argmax(1))


torch.manual_seed(0)
loader, (xt, yt) = DataLoader(data(320, 0), 32, shuffle=True), data(150, 1).tensors
model = Net()
opt = torch.optim.AdamW([{"params": model.stages[0].parameters(), "lr": 2e-3}, {"params": model.stages[1].parameters(), "lr": 4e-3},
                         {"params": model.head.parameters(), "lr": 8e-3}])
for epoch, level in enumerate([2, 1, 0, 0]):
    model.freeze_to(level)
    model.train()
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        print(f"epoch {epoch} frozen below {level} loss {loss.item():.4f} acc {(model(xt).argmax(1) == yt).float().mean():.3f}")
