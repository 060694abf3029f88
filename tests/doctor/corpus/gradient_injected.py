"""The gradient of an output computed apart and put into the graph, as a split or pipelined model does."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
front, back = nn.Sequential(nn.Linear(6, 12), nn.ReLU()), nn.Linear(12, 3)
front_optimizer = torch.optim.SGD(front.parameters(), lr=0.1)
back_optimizer = torch.optim.SGD(back.parameters(), lr=0.1)
for step in range(6):
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    front_optimizer.zero_grad()
    back_optimizer.zero_grad()
    sent = front(x)
    received = sent.detach().requires_grad_()
    loss = F.cross_entropy(back(received), y)
    loss.backward()
    sent.backward(received.grad)
    front_optimizer.step()
    back_optimizer.step()
    print(step, f"{loss.item():.4f}")
weights = nn.Parameter(torch.randn(5))
optimizer = torch.optim.SGD([weights], lr=0.1)
for step in range(4):  # evolution strategies: a gradient without backward
    noise = torch.randn(20, 5)
    rewards = -((weights.detach() + 0.1 * noise - 1) ** 2).sum(1)
    weights.grad = -(rewards[:, None] * noise).mean(0)
    optimizer.step()
