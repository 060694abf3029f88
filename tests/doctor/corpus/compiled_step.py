"""A compiled model, a compiled loss, and a module compiled in place."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 1))
model = torch.compile(net, backend="aot_eager")
front = nn.Linear(8, 8)
front.compile(backend="aot_eager")


@torch.compile(backend="aot_eager")
def loss_function(predicted, target):
    return ((predicted.squeeze(1) - target) ** 2).mean()


optimizer = torch.optim.AdamW([*net.parameters(), *front.parameters()], lr=1e-2)
inputs, targets = torch.randn(32, 8), torch.randn(32)
for step in range(25):
    optimizer.zero_grad()
    loss = loss_function(model(front(inputs)), targets)
    loss.backward()
    optimizer.step()
    if step % 6 == 0:
        print(step, loss.item())
