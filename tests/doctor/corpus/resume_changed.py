"""Goes on from a checkpoint with another optimizer, or with another schedule, on purpose."""

import os
import tempfile

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
path = os.path.join(tempfile.mkdtemp(), "pretrain.pt")


def build():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def steps(model, optimizer, n, scheduler=None):
    for _ in range(n):
        x = torch.randn(16, 8)
        loss = F.cross_entropy(model(x), x[:, :4].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return loss.item()


# pretraining
model = build()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
steps(model, optimizer, 10, scheduler)
torch.save(
    {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 10,
    },
    path,
)

# goes on, but with another optimizer on purpose
model = build()
checkpoint = torch.load(path)
model.load_state_dict(checkpoint["model"])
start_epoch = checkpoint["epoch"]
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
for epoch in range(start_epoch, start_epoch + 2):
    print(epoch, steps(model, optimizer, 2))

# goes on with the optimizer's moments and a longer schedule
model = build()
checkpoint = torch.load(path)
model.load_state_dict(checkpoint["model"])
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
optimizer.load_state_dict(checkpoint["optimizer"])
for group in optimizer.param_groups:
    group["lr"] = group["initial_lr"] = 5e-3
longer = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
for epoch in range(start_epoch, start_epoch + 2):
    print(epoch, steps(model, optimizer, 2, longer))
