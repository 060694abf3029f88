"""Stochastic weight averaging with torch.optim.swa_utils: SWALR, AveragedModel, update_bn at the end."""
import torch
import torch.nn as nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset


def data(n, seed):
    proto = torch.randn(4, 20, generator=torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (n,), generator=g)
    return TensorDataset(proto[y] * 3 + 4 * torch.randn(n, 20, generator=g) + 10, y)


def accuracy(model, loader):
    model.eval()
    with torch.no_grad():
        return sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


def main():
    torch.manual_seed(0)
    loader, test_loader = DataLoader(data(320, 0), 32, shuffle=True), DataLoader(data(200, 1), 100)
    model = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    swa_model = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    swa_start, swa_scheduler = 2, SWALR(optimizer, swa_lr=0.05, anneal_epochs=1)
    for epoch in range(4):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        if epoch >= swa_start:
            swa_model.update_parameters(model)
            swa_scheduler.step()
        else:
            scheduler.step()
        print(f"epoch {epoch} lr {optimizer.param_groups[0]['lr']:.3f} loss {loss.item():.4f} acc {accuracy(model, test_loader):.3f}")
    update_bn(loader, swa_model)
    print("swa acc", accuracy(swa_model, test_loader))


if __name__ == "__main__":
    main()
