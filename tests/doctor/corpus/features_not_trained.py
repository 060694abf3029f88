"""Frozen layers in many ways: loaded features, evaluation mode, rare embeddings, a teacher, stages with add_param_group."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))


def train(model, optimizer, steps=5, extra=lambda x: 0.0):
    for _ in range(steps):
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1)) + extra(x)
        loss.backward()
        optimizer.step()
    print(f"{loss.item():.4f}")


trained = Net()
train(trained, torch.optim.Adam(trained.parameters(), lr=1e-2))
probe = Net()
probe.body.load_state_dict(trained.body.state_dict())
train(probe, torch.optim.Adam(probe.head.parameters(), lr=1e-2))  # the body has gradients and is not trained
trained.head = nn.Linear(16, 3)
train(trained, torch.optim.SGD(trained.head.parameters(), lr=0.1))  # trained before by another optimizer
teacher = copy.deepcopy(trained)
train(trained, torch.optim.SGD(trained.parameters(), lr=0.1), extra=lambda x: F.mse_loss(trained(x), teacher(x)))
staged = Net()
staged.body.requires_grad_(False)
optimizer = torch.optim.AdamW(staged.head.parameters(), lr=1e-3)
train(staged, optimizer, 3)
staged.body.requires_grad_(True)
optimizer.add_param_group({"params": staged.body.parameters(), "lr": 1e-4})
train(staged, optimizer, 3)
staged.head.requires_grad_(False)  # and the head is frozen at last
train(staged, optimizer, 3)
rare = nn.Embedding(5000, 4, sparse=True)
out = nn.Linear(4, 2)
sparse, dense = torch.optim.SparseAdam(rare.parameters()), torch.optim.Adam(out.parameters())
for step in range(6):
    ids = torch.randint(4000, 5000, (8,))
    sparse.zero_grad()
    dense.zero_grad()
    F.cross_entropy(out(rare(ids)), ids % 2).backward()
    sparse.step()
    dense.step()
