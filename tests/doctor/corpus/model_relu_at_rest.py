"""ReLUs that are zero and well: satisfied margins, an expert without samples, sparse codes, a residual that starts at 0."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Margin(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, near, far):
        return self.relu(near - far + 0.1).mean()


class Residual(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.first(x))))


class Experts(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(dim, 6), nn.ReLU(), nn.Linear(6, dim)) for _ in range(3))

    def forward(self, x, which):
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            out[which == i] = expert(x[which == i])
        return x + out


class SparseAutoencoder(nn.Module):
    def __init__(self, dim, codes):
        super().__init__()
        self.encode, self.decode = nn.Linear(dim, codes), nn.Linear(codes, dim)
        nn.init.constant_(self.encode.bias, -0.5)

    def forward(self, x):
        codes = torch.relu(self.encode(x))
        return self.decode(codes), codes


embed = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), Residual(16), nn.Linear(16, 4))
experts, sparse, margin = Experts(4), SparseAutoencoder(4, 32), Margin()
gate = nn.Sequential(nn.Linear(4, 1), nn.ReLU())
parameters = [p for m in (embed, experts, sparse, gate) for p in m.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-2)
for step in range(15):
    x = torch.randn(12, 5)
    h = experts(embed(x), torch.zeros(12, dtype=torch.long))  # two experts get nothing
    near, far = (h - h.roll(1, 0)).square().sum(1), (h - h.roll(1, 0)).square().sum(1) + 5
    restored, codes = sparse(h.detach())
    loss = F.mse_loss(restored, h.detach()) + 0.01 * codes.abs().mean() + F.cross_entropy(h, x[:, :4].argmax(1))
    loss = loss + margin(near, far) + 0.1 * (gate(h) - 0.2).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
