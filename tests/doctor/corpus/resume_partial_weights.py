"""Weights that are taken over in part, on purpose: a new head, a first attempt with other names, embeddings alone."""

import io
import warnings

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, ids):
        return self.head(self.body(self.embed(ids).mean(1)))


def on_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def fit(model, classes, n=4):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(n):
        ids = torch.randint(30, (16, 6))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids), ids[:, 0] % classes)
        loss.backward()
        optimizer.step()
    return loss.item()


torch.manual_seed(1)
old = Net()
print(fit(old, 5))

# all but the head
state = torch.load(on_disk(old.state_dict()))
state = {k: v for k, v in state.items() if not k.startswith("head.")}
model = Net(classes=3)
print(model.load_state_dict(state, strict=False))
print(fit(model, 3))

# first as it is, then without the prefix
state = torch.load(on_disk({f"module.{k}": v for k, v in old.state_dict().items()}))
model = Net()
result = model.load_state_dict(state, strict=False)
if result.missing_keys:
    model.load_state_dict({k[len("module.") :]: v for k, v in state.items()})
print(fit(model, 5))

# word vectors alone
model = Net(classes=4)
model.load_state_dict({"embed.weight": torch.load(on_disk(torch.randn(30, 8)))}, strict=False)
print(fit(model, 4))

# a submodule, from a larger state that is cut to it
state = torch.load(on_disk({"net": old.state_dict(), "epoch": 3}))["net"]
model = Net(classes=2)
model.body.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("body.")}, strict=False)
model.embed.load_state_dict({"weight": state["embed.weight"]})
print(fit(model, 2))

# whatever fits: here the head has other classes and stays new
state = torch.load(on_disk(old.state_dict()))
model = Net(classes=7)
own = model.state_dict()
own.update({k: v for k, v in state.items() if k in own and own[k].shape == v.shape})
model.load_state_dict(own)
print(fit(model, 7))
