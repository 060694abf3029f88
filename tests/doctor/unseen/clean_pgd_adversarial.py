"""PGD adversarial training; model in eval while the attack is built, input gradients only, then train mode for the update."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


def pgd(model, x, y, eps=0.2, alpha=0.08, steps=3):
    was_training = model.training
    model.eval()
    delta = torch.empty_like(x).uniform_(-eps, eps)
    for _ in range(steps):
        delta.requires_grad_(True)
        loss = F.cross_entropy(model(x + delta), y)
        (g,) = torch.autograd.grad(loss, delta)
        delta = (delta.detach() + alpha * g.sign()).clamp(-eps, eps)
    model.train(was_training)
    return (x + delta).detach()


def data(n, seed):
    p = torch.randn(3, 15, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    return TensorDataset(p[y] + 0.7 * torch.randn(n, 15, generator=g), y)


def main():
    torch.manual_seed(0)
    loader, (xt, yt) = DataLoader(data(320, 0), 32, shuffle=True), data(120, 1).tensors
    model = nn.Sequential(nn.Linear(15, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 3))
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            adv = pgd(model, x, y)
            loss = F.cross_entropy(model(adv), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        model.eval()
        adv = pgd(model, xt, yt)
        with torch.no_grad():
            clean, rob = [(model(v).argmax(1) == yt).float().mean().item() for v in (xt, adv)]
        print(f"epoch {epoch} loss {loss.item():.4f} clean {clean:.3f} robust {rob:.3f}")


if __name__ == "__main__":
    main()
