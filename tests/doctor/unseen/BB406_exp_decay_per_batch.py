"""PINN-free function fitting with SIREN and exponential learning-rate decay."""
import math
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Sine(nn.Module):
    def __init__(self, d_in, d_out, w0=1.0, first=False):
        super().__init__()
        self.linear, self.w0 = nn.Linear(d_in, d_out), w0
        bound = 1 / d_in if first else math.sqrt(6 / d_in) / w0
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return torch.sin(self.w0 * self.linear(x))


class Siren(nn.Module):
    def __init__(self, hidden=48):
        super().__init__()
        self.net = nn.Sequential(Sine(2, hidden, 8.0, True), Sine(hidden, hidden, 4.0), nn.Linear(hidden, 1))

    def forward(self, xy):
        return self.net(xy)


def image_samples(n, seed):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=g) * 2 - 1
    v = torch.sin(5 * xy[:, :1]) * torch.cos(4 * xy[:, 1:]) + 0.5 * (xy.norm(dim=1, keepdim=True) < 0.5)
    return TensorDataset(xy, v)


def psnr(model, ds):
    model.eval()
    with torch.no_grad():
        mse = nn.functional.mse_loss(model(ds.tensors[0]), ds.tensors[1]).item()
    return -10 * math.log10(mse)


def train(num_epochs=3):
    torch.manual_seed(0)
    train_ds, test_ds = image_samples(640, 0), image_samples(400, 1)
    loader = DataLoader(train_ds, batch_size=40, shuffle=True)
    model = Siren()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)  # halve every epoch
    for epoch in range(num_epochs):
        model.train()
        for xy, v in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(xy), v)
            loss.backward()
            optimizer.step()
            scheduler.step()  # cause: BB406
        print(f"epoch {epoch}: mse {loss.item():.5f} lr {scheduler.get_last_lr()[0]:.2e} test psnr {psnr(model, test_ds):.2f}")


if __name__ == "__main__":
    train()
