"""A latent that should not tell the domain: adversary and encoder take turns in one class."""

import torch
import torch.nn.functional as F
from torch import nn


class FairEncoder:
    def __init__(self):
        self.encoder = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 8))
        self.task, self.adversary = nn.Linear(8, 3), nn.Linear(8, 2)
        self.opt_encoder = torch.optim.SGD(self.encoder.parameters(), lr=0.05)
        self.opt_task = torch.optim.SGD(self.task.parameters(), lr=0.05)
        self.opt_adversary = torch.optim.SGD(self.adversary.parameters(), lr=0.05)

    def adversary_turn(self, x, domain):
        self.encoder.requires_grad_(False)
        self.opt_adversary.zero_grad()
        loss = F.cross_entropy(self.adversary(self.encoder(x)), domain)
        loss.backward()
        self.opt_adversary.step()
        self.encoder.requires_grad_(True)
        return loss.item()

    def task_turn(self, x, y, domain):
        self.opt_encoder.zero_grad()
        self.opt_task.zero_grad()
        h = self.encoder(x)
        loss = F.cross_entropy(self.task(h), y) - 0.1 * F.cross_entropy(self.adversary(h), domain)
        loss.backward()
        self.opt_encoder.step()
        self.opt_task.step()
        return loss.item()


torch.manual_seed(1)
model = FairEncoder()
for step in range(6):
    domain = torch.randint(2, (24,))
    x = torch.randn(24, 6) + domain[:, None]
    loss = model.task_turn(x, x[:, :3].argmax(1), domain)
    print(step, round(model.adversary_turn(x, domain), 4), round(loss, 4))
