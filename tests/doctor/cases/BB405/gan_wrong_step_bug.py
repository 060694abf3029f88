"""A GAN on one-dimensional data."""

import torch
from torch import nn

torch.manual_seed(4)
generator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
critic = nn.Sequential(nn.Linear(1, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
g_optim = torch.optim.Adam(generator.parameters(), lr=2e-3)
d_optim = torch.optim.Adam(critic.parameters(), lr=2e-3)
loss_fn = nn.BCEWithLogitsLoss()
real_label, fake_label = torch.ones(24, 1), torch.zeros(24, 1)

for iteration in range(12):
    real = 3 + 0.5 * torch.randn(24, 1)
    fake = generator(torch.randn(24, 2))
    d_optim.zero_grad()
    d_loss = loss_fn(critic(real), real_label) + loss_fn(critic(fake.detach()), fake_label)
    d_loss.backward()
    d_optim.step()

    g_optim.zero_grad()
    g_loss = loss_fn(critic(fake), real_label)
    g_loss.backward()  # cause: BB405
    if iteration % 4 == 0:
        print(iteration, f"{d_loss.item():.4f} {g_loss.item():.4f}")
