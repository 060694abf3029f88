"""Averaged and target networks that are rightly not in the file: a target for Q-learning, a teacher, SWA at the end."""

import copy
import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

torch.manual_seed(8)


def to_disk(state):
    torch.save(state, io.BytesIO())


@torch.no_grad()
def follow(average, model, rate):
    for a, p in zip(average.parameters(), model.parameters()):
        a.lerp_(p, rate)


# Q-learning: the target network is called at every step, and the policy is what one saves
policy = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 2))
target = copy.deepcopy(policy).eval().requires_grad_(False)
optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
for step in range(12):
    state, reward, after = torch.randn(16, 4), torch.randn(16), torch.randn(16, 4)
    action = torch.randint(2, (16, 1))
    with torch.no_grad():
        goal = reward + 0.9 * target(after).amax(1)
    loss = F.smooth_l1_loss(policy(state).gather(1, action).squeeze(1), goal)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    follow(target, policy, 0.05)
    if step % 6 == 5:
        to_disk({"policy": policy.state_dict(), "optimizer": optimizer.state_dict()})

# mean teacher: both are evaluated, the student is what is kept
student = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))
teacher = copy.deepcopy(student).eval().requires_grad_(False)
optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
held_out = torch.randn(32, 6)
for epoch in range(3):
    student.train()
    for _ in range(3):
        x = torch.randn(16, 6)
        with torch.no_grad():
            soft = teacher(x + 0.1 * torch.randn_like(x)).softmax(1)
        logits = student(x)
        loss = F.cross_entropy(logits, x[:, :3].argmax(1)) + F.mse_loss(logits.softmax(1), soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        follow(teacher, student, 0.1)
    student.eval()
    with torch.no_grad():
        accuracies = [(m(held_out).argmax(1) == held_out[:, :3].argmax(1)).float().mean() for m in (student, teacher)]
    print(epoch, [round(a.item(), 2) for a in accuracies])
    to_disk(student.state_dict())

# SWA: the running checkpoint is for resuming, the averaged weights go to disk once, at the end
model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))
averaged = AveragedModel(model).eval()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
held_out = torch.randn(32, 5)
for epoch in range(4):
    for _ in range(3):
        x = torch.randn(16, 5)
        loss = (model(x).squeeze(1) - x.sum(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    averaged.update_parameters(model)
    with torch.no_grad():
        print(epoch, (averaged(held_out).squeeze(1) - held_out.sum(1)).square().mean().item())
    to_disk({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch})
to_disk(averaged.module.state_dict())
