"""A critic and a generator in one dimension; one scaler for both, gradients clipped by value."""

import torch
from torch import nn

torch.manual_seed(4)
generator = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))
critic = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
opt_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.9))
opt_c = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
scaler = torch.amp.GradScaler("cpu", init_scale=4096)
bce = nn.BCEWithLogitsLoss()


def real_batch(n=16):
    return torch.randn(n, 2) * 0.3 + torch.tensor([1.0, -1.0])


for step in range(10):
    real, z = real_batch(), torch.randn(16, 4)
    opt_c.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fake = generator(z)
        loss_c = bce(critic(real), torch.ones(16, 1)) + bce(critic(fake.detach()), torch.zeros(16, 1))
    scaler.scale(loss_c).backward()
    scaler.unscale_(opt_c)
    nn.utils.clip_grad_value_(critic.parameters(), 0.1)
    scaler.step(opt_c)

    opt_g.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_g = bce(critic(fake), torch.ones(16, 1))
    scaler.scale(loss_g).backward()
    scaler.unscale_(opt_g)
    nn.utils.clip_grad_value_(generator.parameters(), 0.1)
    scaler.step(opt_g)
    scaler.update()
    print(f"{step} critic {loss_c.item():.3f} generator {loss_g.item():.3f}")
