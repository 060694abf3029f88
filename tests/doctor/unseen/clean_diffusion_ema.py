"""DDPM on 1-d mixtures: infinite loader (iterator restarted when exhausted), EMA weights for sampling, loss plateaus by nature."""
import copy
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
STEPS = 40
beta = torch.linspace(1e-3, 0.12, STEPS)
abar = torch.cumprod(1 - beta, 0)


def cycle(dl):
    while True:
        yield from dl


class Eps(nn.Module):
    def __init__(self, h=48):
        super().__init__()
        self.t = nn.Embedding(STEPS, 8)
        self.net = nn.Sequential(nn.Linear(9, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU(), nn.Linear(h, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x, t):
        return self.net(torch.cat([x, self.t(t)], 1))


x0 = torch.where(torch.rand(512, 1) < 0.5, 1.5, -1.5) + 0.1 * torch.randn(512, 1)
batches = cycle(DataLoader(TensorDataset(x0), 64, shuffle=True, drop_last=True))
model = Eps()
ema = copy.deepcopy(model).requires_grad_(False)
opt = torch.optim.Adam(model.parameters(), lr=4e-3)
for it in range(60):
    (x,) = next(batches)
    t = torch.randint(0, STEPS, (len(x),))
    eps = torch.randn_like(x)
    xt = abar[t, None].sqrt() * x + (1 - abar[t, None]).sqrt() * eps
    loss = nn.functional.mse_loss(model(xt, t), eps)
    opt.zero_grad()
    loss.backward()
    opt.step()
    with torch.no_grad():
        for e, p in zip(ema.parameters(), model.parameters()):
            e.lerp_(p, 0.1)
    if it % 20 == 19:
        print(f"it {it + 1} loss {loss.item():.4f}")


@torch.no_grad()
def sample(n):
    x = torch.randn(n, 1)
    for s in reversed(range(STEPS)):
        t = torch.full((n,), s)
        x = (x - beta[s] / (1 - abar[s]).sqrt() * ema(x, t)) / (1 - beta[s]).sqrt()
        if s:
            x = x + beta[s].sqrt() * torch.randn_like(x)
    return x


s = sample(300)
print("samples: mean |x|", round(s.abs().mean().item(), 3), "std", round(s.std().item(), 3))
