"""beta-VAE with KL warm-up on spectra."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class SpectraVAE(nn.Module):
    def __init__(self, d=24, z=4, h=32):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(d, h), nn.ELU())
        self.mu, self.logvar = nn.Linear(h, z), nn.Linear(h, z)
        self.dec = nn.Sequential(nn.Linear(z, h), nn.ELU(), nn.Linear(h, d))

    def forward(self, x):
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h).clamp(-6, 4)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.dec(z), mu, logvar


def elbo_terms(recon, x, mu, logvar):
    rec = F.mse_loss(recon, x, reduction="none").sum(1).mean()
    kld = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum(1).mean()
    return rec, kld


class KLScheduler:
    """linear warm-up of the KL weight from 0 to beta_max"""

    def __init__(self, warmup_steps, beta_max=1.0):
        self.warmup_steps, self.beta_max = warmup_steps, beta_max
        self.n = 0

    def step(self):
        self.n += 1

    @property
    def beta(self):
        return self.beta_max * min(1, self.n // self.warmup_steps)  # cause: BB307


def spectra(n, seed):
    g = torch.Generator().manual_seed(seed)
    grid = torch.linspace(0, 6, 24)
    a = torch.rand(n, 1, generator=g) * 2 + 0.5
    b = torch.rand(n, 1, generator=g) * 6
    return TensorDataset(a * torch.exp(-(grid - b) ** 2) + 0.05 * torch.randn(n, 24, generator=g))


def main(epochs=3, warmup_steps=500):
    torch.manual_seed(0)
    loader, val_loader = DataLoader(spectra(320, 0), 32, shuffle=True), DataLoader(spectra(96, 1), 96)
    model = SpectraVAE()
    opt = torch.optim.Adam(model.parameters(), lr=4e-3)
    sched = KLScheduler(warmup_steps)
    for epoch in range(epochs):
        model.train()
        for (x,) in loader:
            recon, mu, logvar = model(x)
            rec, kld = elbo_terms(recon, x, mu, logvar)
            loss = rec + sched.beta * kld
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
        model.eval()
        with torch.no_grad():
            for (x,) in val_loader:
                rec, kld = elbo_terms(*(lambda r, m, l: (r, x, m, l))(*model(x)))
        print(f"epoch {epoch} val rec {rec:.3f} kl {kld:.3f} beta {sched.beta:.3f}")


if __name__ == "__main__":
    main()
