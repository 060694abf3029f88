"""A checkpoint of a whole training, of which only the weights are taken: fine-tuning and evaluation."""

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

# fine-tuning: a fresh optimizer of the same kind, the epoch is only printed
model = build()
checkpoint = torch.load(path)
model.load_state_dict(checkpoint["model"])
print(f"fine-tuning from epoch {checkpoint['epoch']}")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
print(steps(model, optimizer, 5))

# evaluation alone
model = build().eval()
model.load_state_dict(torch.load(path)["model"])
with torch.no_grad():
    print(model(torch.ones(1, 8)).argmax().item())
