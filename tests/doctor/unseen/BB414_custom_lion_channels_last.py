"""Image classifier trained with an own Lion optimizer, channels_last for speed."""
import torch
import torch.nn as nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset


class Lion(Optimizer):
    """Lion with a flat update so that it can be fused later."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                grad = p.grad.reshape(-1)
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(grad)
                flat = p.data.reshape(-1)  # cause: BB414
                flat.mul_(1 - group["lr"] * group["weight_decay"])
                update = state["exp_avg"].mul(b1).add(grad, alpha=1 - b1).sign_()
                flat.add_(update, alpha=-group["lr"])
                state["exp_avg"].mul_(b2).add_(grad, alpha=1 - b2)


class ConvNet(nn.Module):
    def __init__(self, c=12, k=4):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(4 * c, k)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        return self.fc(self.pool(x).flatten(1))


def textures(n, seed, k=4):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, k, (n,), generator=g)
    t = torch.arange(10).float()
    f = (0.6 + 0.5 * y.float()).view(-1, 1, 1, 1)
    x = torch.sin(f * t.view(1, 1, 1, -1) + 6 * torch.rand(n, 3, 1, 1, generator=g)).expand(-1, -1, 10, -1)
    return TensorDataset(x + 0.3 * torch.randn(n, 3, 10, 10, generator=g), y)


def main():
    torch.manual_seed(0)
    loader, test_loader = DataLoader(textures(256, 0), 16, shuffle=True), DataLoader(textures(96, 1), 96)
    model = ConvNet().to(memory_format=torch.channels_last)
    optimizer = Lion(model.parameters(), lr=2e-3, weight_decay=0.01)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(3):
        model.train()
        s = 0.0
        for x, y in loader:
            x = x.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            s += loss.item()
        model.eval()
        with torch.no_grad():
            acc = sum((model(x).argmax(1) == y).float().mean().item() for x, y in test_loader) / len(test_loader)
        print(f"epoch {epoch} loss {s / len(loader):.4f} test acc {acc:.3f}")


if __name__ == "__main__":
    main()
