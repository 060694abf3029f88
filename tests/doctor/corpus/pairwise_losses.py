"""Losses over all pairs: a ranking loss, an energy distance, a kernel, and a chamfer distance of equally many points."""

import torch
from torch import nn

torch.manual_seed(0)
score = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.Adam([*score.parameters(), *generator.parameters()], lr=1e-2)


def energy_distance(x, y):
    cross = (x.unsqueeze(1) - y).abs().mean()
    return 2 * cross - (x.unsqueeze(1) - x).abs().mean() - (y.unsqueeze(1) - y).abs().mean()


def kernel(x, y):
    return torch.exp(-((x - y) ** 2)).mean()


for step in range(6):
    features, relevance = torch.randn(16, 5), torch.randint(3, (16,))
    s = score(features).squeeze(1)
    better = (relevance[:, None] > relevance).float()
    ranking = (better * nn.functional.softplus(s - s[:, None])).sum() / better.sum()
    fake, real = generator(torch.randn(16, 3)), torch.randn(16)
    column = fake
    mmd = kernel(column, column.T) - 2 * kernel(column, real)
    chamfer = (fake - real).abs().min(dim=1).values.mean()
    loss = ranking + energy_distance(fake.squeeze(1), real) + mmd + 0.1 * chamfer
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
