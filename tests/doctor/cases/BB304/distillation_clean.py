"""A student learns from the softened outputs of a teacher."""

import torch
import torch.nn.functional as F
from torch import nn


def distillation_loss(student_logits, teacher_logits, labels, T=2.0, alpha=0.5):
    soft_student = F.log_softmax(student_logits / T, dim=1)
    soft_teacher = F.softmax(teacher_logits / T, dim=1)
    kd = F.kl_div(soft_student, soft_teacher, reduction="batchmean") * T * T
    ce = F.cross_entropy(student_logits, labels)
    return alpha * kd + (1 - alpha) * ce


torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
student = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 5))
x = torch.randn(100, 10)
with torch.no_grad():
    labels = teacher(x).argmax(1)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for step in range(10):
    index = torch.randint(100, (25,))
    with torch.no_grad():
        teacher_logits = teacher(x[index])
    loss = distillation_loss(student(x[index]), teacher_logits, labels[index])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
