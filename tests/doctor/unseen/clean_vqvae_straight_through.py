"""VQ-VAE: argmin codes, straight-through estimator, codebook and commitment losses with detach."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class VectorQuantizer(nn.Module):
    def __init__(self, n, d, beta=0.25):
        super().__init__()
        self.codebook = nn.Embedding(n, d)
        nn.init.uniform_(self.codebook.weight, -0.5, 0.5)
        self.beta = beta

    def forward(self, z):
        idx = torch.cdist(z, self.codebook.weight).argmin(-1)
        q = self.codebook(idx)
        loss = F.mse_loss(q, z.detach()) + self.beta * F.mse_loss(z, q.detach())
        return z + (q - z).detach(), loss, idx


class VQVAE(nn.Module):
    def __init__(self, d=16, z=4):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(d, 48), nn.ReLU(), nn.Linear(48, z))
        self.vq = VectorQuantizer(12, z)
        self.dec = nn.Sequential(nn.Linear(z, 48), nn.ReLU(), nn.Linear(48, d))

    def forward(self, x):
        q, vq_loss, idx = self.vq(self.enc(x))
        return self.dec(q), vq_loss, idx


def data(n, seed):
    p = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(p[torch.randint(0, 8, (n,), generator=g)] + 0.1 * torch.randn(n, 16, generator=g))


if __name__ == "__main__":
    torch.manual_seed(0)
    loader, test = DataLoader(data(400, 0), 40, shuffle=True), data(100, 1).tensors[0]
    model = VQVAE()
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    for epoch in range(4):
        model.train()
        for (x,) in loader:
            rec, vq_loss, _ = model(x)
            loss = F.mse_loss(rec, x) + vq_loss
            opt.zero_grad()
            loss.backward()
            opt.step()
        model.eval()
        with torch.no_grad():
            rec, _, idx = model(test)
        print(f"epoch {epoch} loss {loss.item():.4f} test mse {F.mse_loss(rec, test):.4f} codes used {idx.unique().numel()}")
