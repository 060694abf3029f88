"""Modes that look wrong: BatchNorm kept in eval, MC dropout, a teacher in training mode, statistics measured anew."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 2))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))


x = torch.randn(64, 6)
y = (x[:, 0] > 0).long()
loader = DataLoader(TensorDataset(x[:32], y[:32]), batch_size=16, shuffle=True)
val = DataLoader(TensorDataset(x[32:], y[32:]), batch_size=16)
extra = DataLoader(TensorDataset(x[32:], y[32:]), batch_size=8)
model = Net()
with torch.no_grad():
    model.backbone[1].running_mean.fill_(0.1)
    model.backbone[1].num_batches_tracked.fill_(100)
teacher = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
for epoch in range(3):
    model.train()
    teacher.train()
    for images, labels in loader:
        with torch.no_grad():
            soft = teacher(images).softmax(1)
        out = model(images)
        loss = F.cross_entropy(out, labels) + F.cross_entropy(out, soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(teacher.parameters(), model.parameters()):
                p.lerp_(q, 0.05)
    model.train()
    with torch.no_grad():  # five passes with dropout: their spread is the uncertainty
        samples = torch.stack([torch.cat([model(images).softmax(1) for images, _ in val]) for _ in range(5)])
    model.eval()
    with torch.no_grad():
        hits = sum((model(images).argmax(1) == labels).sum().item() for images, labels in val)
    print(epoch, f"{loss.item():.4f}", hits, f"{samples.std(0).mean().item():.4f}")
torch.optim.swa_utils.update_bn(extra, model)
model.eval()
adversarial = x[:8].clone().requires_grad_()
for _ in range(4):
    F.cross_entropy(model(adversarial), y[:8]).backward()
    with torch.no_grad():
        adversarial += 0.01 * adversarial.grad.sign()
    adversarial.grad = None
model.zero_grad()
