"""Two optimizers on the same parameters by turns: one per task, a switch from Adam to SGD, an adversarial encoder."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
shared, first, second = nn.Linear(6, 12), nn.Linear(12, 2), nn.Linear(12, 1)
one = torch.optim.Adam([*shared.parameters(), *first.parameters()], lr=1e-3)
two = torch.optim.Adam([*shared.parameters(), *second.parameters()], lr=1e-3)
for step in range(6):
    x = torch.randn(16, 6)
    one.zero_grad()
    F.cross_entropy(first(shared(x).relu()), (x[:, 0] > 0).long()).backward()
    one.step()
    two.zero_grad()
    F.mse_loss(second(shared(x).relu()), x.sum(1, keepdim=True)).backward()
    two.step()
parameters = [*shared.parameters(), *first.parameters()]
optimizer = torch.optim.Adam(parameters, lr=1e-3)
for step in range(10):
    if step == 5:
        optimizer = torch.optim.SGD(parameters, lr=1e-2)
    x = torch.randn(16, 6)
    optimizer.zero_grad()
    loss = F.cross_entropy(first(shared(x).relu()), (x[:, 0] > 0).long())
    loss.backward()
    optimizer.step()
print(f"{loss.item():.4f}")
encoder, decoder, judge = nn.Linear(6, 2), nn.Linear(2, 6), nn.Linear(2, 1)
reconstruct = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
regularize = torch.optim.Adam(encoder.parameters(), lr=1e-3)
discriminate = torch.optim.Adam(judge.parameters(), lr=1e-3)
for step in range(6):  # an adversarial autoencoder
    x = torch.randn(16, 6)
    for o in (reconstruct, regularize, discriminate):
        o.zero_grad()
    F.mse_loss(decoder(encoder(x)), x).backward()
    reconstruct.step()
    discriminate.zero_grad()
    (F.softplus(-judge(torch.randn(16, 2))).mean() + F.softplus(judge(encoder(x).detach())).mean()).backward()
    discriminate.step()
    regularize.zero_grad()
    F.softplus(-judge(encoder(x))).mean().backward()
    regularize.step()
