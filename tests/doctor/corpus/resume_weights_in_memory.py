"""States of modules that are live on purpose, or go back at once: averaging, exchange, soups, learning rate search."""

import copy
import io

import torch
from torch import nn

torch.manual_seed(5)


def fit(model, n, lr=0.05):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(n):
        x = torch.randn(16, 6)
        optimizer.zero_grad()
        loss = (model(x).squeeze(1) - x[:, 0]).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


# a live state that is written out every round: the file is what counts
net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1))
checkpoint = {"model": net.state_dict(), "round": 0}
for checkpoint["round"] in range(3):
    fit(net, 3)
    torch.save(checkpoint, io.BytesIO())

# learning rate search: a copy goes back
before = copy.deepcopy(net.state_dict())
for lr in (0.01, 0.1):
    print(lr, fit(net, 3, lr))
    net.load_state_dict(before)

# a soup of three runs, made in place of a state that nothing has changed since it was taken
runs = [copy.deepcopy(net) for _ in range(3)]
for run in runs:
    fit(run, 3)
soup = runs[0].state_dict()
for name, tensor in soup.items():
    tensor.add_(sum(run.state_dict()[name] for run in runs[1:])).div_(3)
runs[0].load_state_dict(soup)
net.load_state_dict(soup)

# federated averaging: a state per client, averaged into new tensors
clients = [copy.deepcopy(net) for _ in range(2)]
for _ in range(2):
    states = []
    for client in clients:
        client.load_state_dict(net.state_dict())
        fit(client, 2)
        states.append(client.state_dict())
    net.load_state_dict({k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]})

# exchange with the averaged weights and back, through a copy
ema = copy.deepcopy(net)
for _ in range(3):
    fit(net, 2)
    for averaged, p in zip(ema.parameters(), net.parameters()):
        averaged.data.lerp_(p.data, 0.2)
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(ema.state_dict())
    with torch.no_grad():
        print(net(torch.ones(1, 6)).item())
    net.load_state_dict(kept)
