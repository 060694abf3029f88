"""Very deep fully connected net for a physics surrogate (drag coefficient from 6 inputs)."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset, random_split

DEPTH, WIDTH = 18, 24


def init_weights(m):
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, mean=0.0, std=0.02)  # cause: BB212
        nn.init.zeros_(m.bias)


class Surrogate(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Linear(6, WIDTH), nn.Tanh()]
        for _ in range(DEPTH - 1):
            layers.extend([nn.Linear(WIDTH, WIDTH), nn.Tanh()])
        self.net = nn.Sequential(*layers)
        self.out = nn.Linear(WIDTH, 1)
        self.apply(init_weights)

    def forward(self, x):
        return self.out(self.net(x))


def r2(model, loader):
    model.eval()
    p, t = [], []
    with torch.no_grad():
        for x, y in loader:
            p.append(model(x))
            t.append(y)
    p, t = torch.cat(p), torch.cat(t)
    return 1 - ((p - t) ** 2).sum().item() / ((t - t.mean()) ** 2).sum().item()


def main():
    torch.manual_seed(5)
    x = torch.rand(400, 6) * 2 - 1
    y = (x[:, :1] * 2 + torch.sin(3 * x[:, 1:2]) + x[:, 2:3] * x[:, 3:4])
    y = (y - y.mean()) / y.std()
    train, val = random_split(TensorDataset(x, y), [320, 80], generator=torch.Generator().manual_seed(0))
    train_loader, val_loader = DataLoader(train, 32, shuffle=True), DataLoader(val, 80)
    model = Surrogate()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    mse = nn.MSELoss()
    for epoch in range(3):
        model.train()
        s = 0.0
        for xb, yb in train_loader:
            optimizer.zero_grad()
            loss = mse(model(xb), yb)
            loss.backward()
            optimizer.step()
            s += loss.item()
        print(f"epoch {epoch} mse {s / len(train_loader):.4f} val R2 {r2(model, val_loader):+.3f}")


if __name__ == "__main__":
    main()
