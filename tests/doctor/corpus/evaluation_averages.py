"""Averages and copies with BatchNorm that are right: buffers averaged, statistics measured anew, targets that train."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn


def net():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def batches(n=4):
    for _ in range(n):
        x = torch.randn(12, 6) + 1
        yield x, (x[:, 0] > 1).long()


@torch.no_grad()
def accuracy(model, x, y):
    was_training = model.training
    model.eval()
    hits = (model(x).argmax(1) == y).float().mean().item()
    model.train(was_training)
    return hits


torch.manual_seed(0)
x_val = torch.randn(40, 6) + 1
y_val = (x_val[:, 0] > 1).long()

model = net()
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
swa = AveragedModel(model)
best = net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
print("before", accuracy(ema, x_val, y_val), accuracy(model, x_val, y_val))
for epoch in range(3):
    for x, y in batches():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
    swa.update_parameters(model)
    best.load_state_dict(model.state_dict())
    print(epoch, accuracy(model, x_val, y_val), accuracy(ema, x_val, y_val), accuracy(best, x_val, y_val))
update_bn([x for x, _ in batches()], swa)
print("swa", accuracy(swa, x_val, y_val))

online, predictor = net(), nn.Linear(2, 2)  # BYOL: the target is in training mode and has statistics of its own
target = copy.deepcopy(online).requires_grad_(False)
optimizer = torch.optim.Adam([*online.parameters(), *predictor.parameters()], lr=1e-2)
for x, _ in batches(6):
    with torch.no_grad():
        aim = F.normalize(target(x + 0.1 * torch.randn_like(x)), dim=1)
    loss = 2 - 2 * (F.normalize(predictor(online(x)), dim=1) * aim).sum(1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for t, p in zip(target.parameters(), online.parameters()):
            t.lerp_(p, 0.1)
print("byol", f"{loss.item():.4f}")

random_target, student = net().eval().requires_grad_(False), net()  # a random function to imitate: it never moves
optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
for x, _ in batches(6):
    with torch.no_grad():
        aim = random_target(x)
    loss = F.mse_loss(student(x), aim)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("imitated", f"{loss.item():.4f}")

model = net()  # the averaged parameters are put into the model itself for the evaluation, and taken out again
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
for epoch in range(2):
    for x, y in batches():
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in model.named_parameters():
            shadow[name].mul_(0.8).add_(p.detach(), alpha=0.2)
    kept = copy.deepcopy(model.state_dict())
    model.load_state_dict(shadow, strict=False)
    print("swapped", epoch, accuracy(model, x_val, y_val))
    model.load_state_dict(kept)
