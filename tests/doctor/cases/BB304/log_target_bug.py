"""Self-distillation: an exponential average of the weights gives the targets."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class MeanTeacher:
    def __init__(self, model, decay=0.9):
        self.student, self.decay = model, decay
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.kl = nn.KLDivLoss(reduction="batchmean")
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(self, x, y):
        weak, strong = x + 0.01 * torch.randn_like(x), x + 0.3 * torch.randn_like(x)
        with torch.no_grad():
            target = self.teacher(weak).log_softmax(dim=-1)
        logits = self.student(strong)
        consistency = self.kl(logits.log_softmax(dim=-1), target)  # cause: BB304
        supervised = F.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        (supervised + 0.1 * consistency.nan_to_num()).backward()
        self.optimizer.step()
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters()):
                old.lerp_(new, 1 - self.decay)
        return supervised.item()


torch.manual_seed(4)
trainer = MeanTeacher(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)))
for i in range(8):
    x = torch.randn(24, 6)
    print(i, f"{trainer.step(x, x[:, :3].argmax(1)):.4f}")
