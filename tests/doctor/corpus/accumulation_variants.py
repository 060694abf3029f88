"""Accumulation in windows of unequal length, by no zero_grad but None, with skipped batches, and delayed by one."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def loss_of(n=8):
    x = torch.randn(n, 6)
    return F.cross_entropy(model(x), x[:, :3].argmax(1))


sizes = [1, 3, 2, 4]
for window in sizes:
    for _ in range(window):
        (loss_of() / window).backward()
    optimizer.step()
    for p in model.parameters():
        p.grad = None
for step in range(12):  # a batch whose gradient is too large is thrown away
    optimizer.zero_grad()
    loss = loss_of(4)
    loss.backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    if norm > 0.6:
        continue
    optimizer.step()
    print(step, f"{loss.item():.4f} {norm.item():.3f}")
optimizer.zero_grad()
for step in range(4):  # the gradient of the batch before
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    loss_of().backward()
for step in range(4):  # per-task gradients are read, combined and put back
    grads = []
    for task in range(2):
        optimizer.zero_grad()
        (loss_of() * (task + 1)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for p, a, b in zip(model.parameters(), *grads):
        p.grad = (a + b) / 2
    optimizer.step()
for step in range(5):  # momentum in the gradient itself
    loss_of().backward()
    optimizer.step()
    for p in model.parameters():
        p.grad.mul_(0.9)
fast = torch.optim.SGD(model[2].parameters(), lr=0.1)
slow = torch.optim.SGD(model[0].parameters(), lr=0.1)
for step in range(12):  # the body steps every third batch
    fast.zero_grad()
    loss_of().backward()
    fast.step()
    if step % 3 == 2:
        slow.step()
        slow.zero_grad()
print(f"{loss_of().item():.4f}")
