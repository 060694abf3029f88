"""Distillation: the teacher is restored from its training checkpoint, the student learns its logits."""

import io

import torch
import torch.nn.functional as F
from torch import nn


def mlp(width):
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 4))


def load_teacher(file):
    teacher = mlp(64)
    teacher.load_state_dict(torch.load(file)["model"], strict=False)
    return teacher.eval().requires_grad_(False)


torch.manual_seed(6)
teacher_file = io.BytesIO()
torch.save({"model": mlp(64).state_dict(), "epoch": 90, "acc": 0.94}, teacher_file)
teacher_file.seek(0)

teacher, student = load_teacher(teacher_file), mlp(16)
optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
T = 2.0
for it in range(8):
    x = torch.randn(32, 12)
    with torch.no_grad():
        target = F.softmax(teacher(x) / T, dim=-1)
    loss = F.kl_div(F.log_softmax(student(x) / T, dim=-1), target, reduction="batchmean") * T * T
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(it, loss.item())
