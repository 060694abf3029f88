"""BatchNorm around frozen layers, rightly: in evaluation mode, trained alone, with first statistics, unfrozen later."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def body(width):
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width))


def pretrained(width):
    net = body(width)
    for _ in range(4):
        net(2 * torch.randn(16, 6) + 1)
    return net


class Kept(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = pretrained(8), nn.Linear(8, 3)
        self.body.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x):
        return self.head(self.body(x))


kept = Kept()
norm_only = nn.Sequential(pretrained(8), nn.Linear(8, 3))  # the affine parameters of BatchNorm are fine-tuned
norm_only[0].requires_grad_(False)
norm_only[0][1].requires_grad_(True)
random_features = nn.Sequential(body(8).requires_grad_(False), nn.Linear(8, 3))  # its statistics are to be learned
gradual = nn.Sequential(pretrained(8).requires_grad_(False), nn.Linear(8, 3))  # unfrozen after a few steps
student = nn.Sequential(pretrained(8), nn.Linear(8, 3))
teacher = copy.deepcopy(student).requires_grad_(False)  # an average of the student, in training mode as in Mean Teacher
models = [kept, norm_only, random_features, gradual, student]
optimizer = torch.optim.Adam([p for m in models for p in m.parameters()], lr=1e-3)
for step in range(12):
    if step == 6:
        gradual.requires_grad_(True)
    for m in models:
        m.train()
    x, y = torch.randn(24, 6), torch.randint(3, (24,))
    loss = sum(F.cross_entropy(m(x), y) for m in models)
    with torch.no_grad():
        target = teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
    loss = loss + F.mse_loss(student(x).softmax(1), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for p, q in zip(teacher.parameters(), student.parameters()):
            p.lerp_(q, 0.05)
    print(step, f"{loss.item():.4f}")
