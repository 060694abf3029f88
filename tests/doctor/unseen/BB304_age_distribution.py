"""Deep label distribution learning: age as a Gaussian over bins."""
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

BINS = 20
centers = torch.arange(BINS).float()


class Faces(Dataset):
    def __init__(self, n, seed, sigma=1.5):
        g = torch.Generator().manual_seed(seed)
        self.age = torch.rand(n, generator=g) * (BINS - 1)
        basis = torch.randn(3, 18, generator=torch.Generator().manual_seed(3))
        a = (self.age / BINS * 2 - 1).unsqueeze(1)
        self.feat = torch.cat([a, a ** 2, torch.sin(3 * a)], 1) @ basis + 0.15 * torch.randn(n, 18, generator=g)
        d = torch.exp(-0.5 * ((centers - self.age.unsqueeze(1)) / sigma) ** 2)
        self.dist = d / d.sum(1, keepdim=True)

    def __len__(self):
        return len(self.age)

    def __getitem__(self, i):
        return self.feat[i], self.dist[i], self.age[i]


class AgeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(18, 48), nn.ReLU(), nn.Linear(48, BINS), nn.Softmax(dim=1))

    def forward(self, x):
        return self.net(x)


kl = nn.KLDivLoss(reduction="batchmean")


def train_one_epoch(model, loader, optimizer):
    model.train()
    total = 0.0
    for feat, dist, _ in loader:
        prob = model(feat)
        loss = kl(prob, dist)  # cause: BB304
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def validate(model, loader):
    model.eval()
    mae, n = 0.0, 0
    for feat, _, age in loader:
        expected = (model(feat) * centers).sum(1)
        mae += (expected - age).abs().sum().item()
        n += len(age)
    return mae / n


def main():
    torch.manual_seed(0)
    train_loader = DataLoader(Faces(320, 0), batch_size=32, shuffle=True)
    val_loader = DataLoader(Faces(100, 1), batch_size=100)
    model = AgeNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(4):
        loss = train_one_epoch(model, train_loader, optimizer)
        print(f"Epoch {epoch}: kl={loss:.4f} MAE={validate(model, val_loader):.3f} years")


if __name__ == "__main__":
    main()
