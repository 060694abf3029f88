"""Bayesian-ish regression: MC dropout, i.e. dropout kept on at test time on purpose to get an uncertainty; BN-free."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self, p=0.1):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(p), nn.Linear(64, 2))

    def forward(self, x):
        mean, log_var = self.net(x).chunk(2, -1)
        return mean, log_var.clamp(-6, 3)


def enable_dropout(model):
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.train()


def nll(mean, log_var, y):
    return 0.5 * (log_var + (y - mean) ** 2 / log_var.exp()).mean()


@torch.no_grad()
def mc_predict(model, x, samples=20):
    model.eval()
    enable_dropout(model)
    means = torch.stack([model(x)[0] for _ in range(samples)])
    return means.mean(0), means.std(0)


def main():
    torch.manual_seed(0)
    x = torch.rand(320, 1) * 4 - 2
    y = torch.sin(2 * x) + 0.1 * torch.randn_like(x)
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    model = Net()
    opt = torch.optim.Adam(model.parameters(), lr=5e-3)
    grid = torch.tensor([[-1.0], [0.0], [1.0], [4.0]])
    for epoch in range(4):
        model.train()
        for xb, yb in loader:
            loss = nll(*model(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
        mu, sd = mc_predict(model, grid)
        print(f"epoch {epoch} nll {loss.item():+.3f} mean {[round(v, 2) for v in mu.flatten().tolist()]} std {[round(v, 2) for v in sd.flatten().tolist()]}")


if __name__ == "__main__":
    main()
