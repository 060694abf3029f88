"""Several right trainings in one script, each of them longer than the first steps of a run."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


def batch(size=16):
    x = torch.randn(size, 6)
    return x, (x[:, :3].sum(1) > 0).long() + (x[:, 3:].sum(1) > 0).long()


def network(width=12):
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))


def fit(model, optimizer, steps=25, loss_of=lambda logits, x, y: F.cross_entropy(logits, y)):
    for _ in range(steps):
        x, y = batch()
        loss = loss_of(model(x), x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


# A teacher, then a student of its soft targets.
teacher = network(24)
print("teacher", f"{fit(teacher, torch.optim.Adam(teacher.parameters(), lr=1e-2)):.3f}")
teacher.eval().requires_grad_(False)


def distilled(logits, x, y, temperature=3.0):
    with torch.no_grad():
        soft = F.softmax(teacher(x) / temperature, dim=1)
    hard = F.cross_entropy(logits, y)
    return hard + temperature**2 * F.kl_div(F.log_softmax(logits / temperature, 1), soft, reduction="batchmean")


student = network(6)
print("student", f"{fit(student, torch.optim.Adam(student.parameters(), lr=1e-2), loss_of=distilled):.3f}")

# Pretrained, then a new head on frozen layers, then everything at a lower rate: an optimizer for each.
model = network()
fit(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
model[0].requires_grad_(False)
model[2] = nn.Linear(12, 3)
fit(model, torch.optim.SGD(model[2].parameters(), lr=0.1, momentum=0.9))
model[0].requires_grad_(True)
print("unfrozen", f"{fit(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)):.3f}")

# Federated averaging: every client a copy with an optimizer of its own, in every round.
server = network()
for _ in range(4):
    clients = [copy.deepcopy(server) for _ in range(3)]
    for client in clients:
        fit(client, torch.optim.SGD(client.parameters(), lr=0.1), steps=4)
    with torch.no_grad():
        for name, value in server.state_dict().items():
            value.copy_(torch.stack([client.state_dict()[name] for client in clients]).mean(0))

# A search over learning rates with sums for losses: other values, and another training each.
for rate in (1e-4, 1e-3, 3e-3):
    torch.manual_seed(1)
    candidate = network()
    last = fit(
        candidate,
        torch.optim.SGD(candidate.parameters(), lr=rate),
        loss_of=lambda logits, x, y: 20 * rate**0.5 * F.cross_entropy(logits, y, reduction="sum"),
    )
    print("rate", rate, f"{last:.3f}")

# Cycles, each with an optimizer that begins anew; what was cleared before is not cleared twice.
snapshot = network()
for _ in range(3):
    optimizer = torch.optim.Adam(snapshot.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=22)
    for _ in range(22):
        x, y = batch()
        F.cross_entropy(snapshot(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
print(
    "server", f"{F.cross_entropy(server(x), y).item():.3f}", "cycles", f"{F.cross_entropy(snapshot(x), y).item():.3f}"
)
