"""SGDR: cosine with warm restarts, stepped by fractional epoch; the lr goes up and down on purpose; snapshot ensemble."""
import copy
import torch
import torch.nn as nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, TensorDataset


def spirals(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=g)
    r = torch.rand(n, generator=g)
    a = 4 * r + 3.14159 * y
    return TensorDataset(torch.stack([r * a.cos(), r * a.sin()], 1) + 0.02 * torch.randn(n, 2, generator=g), y)


def main(epochs=4, T_0=1):
    torch.manual_seed(0)
    loader, test = DataLoader(spirals(400, 0), 40, shuffle=True), spirals(200, 1).tensors
    model = nn.Sequential(nn.Linear(2, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))
    opt = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    sched = CosineAnnealingWarmRestarts(opt, T_0=T_0, T_mult=1, eta_min=1e-3)
    snapshots, iters = [], len(loader)
    for epoch in range(epochs):
        model.train()
        for i, (x, y) in enumerate(loader):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            sched.step(epoch + (i + 1) / iters)
        snapshots.append(copy.deepcopy(model).eval())
        model.eval()
        with torch.no_grad():
            acc = (model(test[0]).argmax(1) == test[1]).float().mean()
            ens = (sum(m(test[0]).softmax(1) for m in snapshots).argmax(1) == test[1]).float().mean()
        print(f"epoch {epoch} lr {opt.param_groups[0]['lr']:.4f} loss {loss.item():.3f} acc {acc:.3f} ensemble {ens:.3f}")


if __name__ == "__main__":
    main()
