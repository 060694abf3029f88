"""WGAN-GP with requires_grad toggling on the critic (set back every time) and zero_grad on the module."""
import torch
import torch.nn as nn

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
D = nn.Sequential(nn.Linear(2, 32), nn.Softplus(), nn.Linear(32, 1))
opt_g = torch.optim.Adam(G.parameters(), 2e-3, betas=(0.0, 0.9))
opt_d = torch.optim.Adam(D.parameters(), 4e-3, betas=(0.0, 0.9))
N_CRITIC, LAMBDA, BS = 3, 1.0, 32


def toggle(net, flag):
    for p in net.parameters():
        p.requires_grad_(flag)


def real_batch():
    return torch.randn(BS, 2) * torch.tensor([0.3, 1.0]) + torch.tensor([2.0, -1.0])


def penalty(real, fake):
    eps = torch.rand(BS, 1)
    mid = (eps * real + (1 - eps) * fake).requires_grad_(True)
    (grad,) = torch.autograd.grad(D(mid).sum(), mid, create_graph=True)
    return ((grad.norm(dim=1) - 1) ** 2).mean()


for it in range(16):
    toggle(D, True)
    for _ in range(N_CRITIC):
        real = real_batch()
        fake = G(torch.randn(BS, 4)).detach()
        D.zero_grad()
        w = D(real).mean() - D(fake).mean()
        (-w + LAMBDA * penalty(real, fake)).backward()
        opt_d.step()
    toggle(D, False)
    G.zero_grad()
    g_loss = -D(G(torch.randn(BS, 4))).mean()
    g_loss.backward()
    opt_g.step()
    if it % 4 == 3:
        with torch.no_grad():
            m = G(torch.randn(256, 4)).mean(0)
        print(f"it {it + 1} W {w.item():.3f} g {g_loss.item():.3f} fake mean {m.tolist()}")
