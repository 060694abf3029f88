"""SimCLR: batch items interact through the loss on purpose; projection head dropped for the linear probe."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
        self.g = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 12))

    def forward(self, x):
        h = self.f(x)
        return h, F.normalize(self.g(F.relu(h)), dim=1)


def nt_xent(z1, z2, tau=0.3):
    z = torch.cat([z1, z2])
    sim = z @ z.t() / tau
    sim.fill_diagonal_(float("-inf"))
    n = len(z1)
    return F.cross_entropy(sim, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


def view(x):
    return x * (torch.rand_like(x) > 0.2) + 0.2 * torch.randn_like(x)


proto = torch.randn(5, 16)
y = torch.randint(0, 5, (400,))
x = proto[y] + 0.5 * torch.randn(400, 16)
enc = Encoder()
opt = torch.optim.Adam(enc.parameters(), lr=3e-3, weight_decay=1e-6)
for epoch in range(3):
    enc.train()
    for idx in torch.randperm(320).split(64):
        _, z1 = enc(view(x[idx]))
        _, z2 = enc(view(x[idx]))
        loss = nt_xent(z1, z2)
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"epoch {epoch} nt-xent {loss.item():.4f}")

enc.eval().requires_grad_(False)
probe = nn.Linear(32, 5)
popt = torch.optim.Adam(probe.parameters(), lr=3e-2)
with torch.no_grad():
    feats = enc(x)[0]
for _ in range(30):
    ploss = F.cross_entropy(probe(feats[:320]), y[:320])
    popt.zero_grad()
    ploss.backward()
    popt.step()
with torch.no_grad():
    print("linear probe acc", (probe(feats[320:]).argmax(1) == y[320:]).float().mean().item())
