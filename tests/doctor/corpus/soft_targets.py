"""Mixup, label smoothing, distillation and log-probabilities in cross_entropy, all as they should be."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
teacher = nn.Linear(8, 4).requires_grad_(False)
student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
gate = nn.Linear(8, 1)
optimizer = torch.optim.SGD([*student.parameters(), *gate.parameters()], lr=0.1)
for step in range(6):
    x, y = torch.randn(20, 8), torch.randint(4, (20,))
    mixed, other, lam = 0.7 * x + 0.3 * x.flip(0), y.flip(0), 0.7
    soft = lam * F.one_hot(y, 4).float() + (1 - lam) * F.one_hot(other, 4).float()
    logits = student(mixed)
    mixup = F.cross_entropy(logits, soft, label_smoothing=0.1)
    distill = F.cross_entropy(student(x), teacher(x).softmax(1))
    blend = torch.sigmoid(gate(x))
    mixture = blend * student(x).softmax(1) + (1 - blend) * teacher(x).softmax(1)
    twice = F.cross_entropy(F.log_softmax(logits, 1), y)
    loss = mixup + distill + F.nll_loss(mixture.log(), y) + twice + F.cross_entropy(mixture.log(), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        printed = F.cross_entropy(student(x).softmax(1), y)
    print(step, f"{loss.item():.4f} {printed.item():.4f}")
