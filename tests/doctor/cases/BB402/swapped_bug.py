"""A GAN whose two turns are functions."""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--iters", type=int, default=9)
parser.add_argument("--batch", type=int, default=32)
args = parser.parse_args([])

torch.manual_seed(2)
gen = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))
dis = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1))
gen_opt = torch.optim.RMSprop(gen.parameters(), lr=5e-4)
dis_opt = torch.optim.RMSprop(dis.parameters(), lr=5e-4)


def discriminator_turn(real):
    fake = gen(torch.randn(args.batch, 3)).detach()
    loss = F.softplus(-dis(real)).mean() + F.softplus(dis(fake)).mean()
    gen_opt.zero_grad()  # cause: BB402
    loss.backward()
    dis_opt.step()
    return loss.item()


def generator_turn():
    dis_opt.zero_grad()
    gen_opt.zero_grad()
    loss = F.softplus(-dis(gen(torch.randn(args.batch, 3)))).mean()
    loss.backward()
    gen_opt.step()
    return loss.item()


for it in range(args.iters):
    real = torch.randn(args.batch, 2) * 0.3 + torch.tensor([1.0, -1.0])
    print(it, f"{discriminator_turn(real):.4f} {generator_turn():.4f}")
