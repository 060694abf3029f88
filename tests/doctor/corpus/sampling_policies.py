"""Policy gradients with actions from torch.normal, hard Gumbel choices, rounding straight through, a spiking step."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).float()

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad / (1 + v.abs()).pow(2)


policy, critic, choice, spiking = nn.Linear(4, 2), nn.Linear(6, 1), nn.Linear(4, 3), nn.Linear(4, 4)
log_std = nn.Parameter(torch.zeros(2))
everything = [*policy.parameters(), *critic.parameters(), *choice.parameters(), *spiking.parameters(), log_std]
optimizer = torch.optim.Adam(everything, lr=1e-2)
for step in range(10):
    state = torch.randn(32, 4)
    mean = policy(state)
    action = torch.normal(mean, log_std.exp().expand_as(mean))
    with torch.no_grad():
        reward = -(action - state[:, :2]).pow(2).sum(1)
    distribution = torch.distributions.Normal(mean, log_std.exp())
    log_prob = distribution.log_prob(action.detach()).sum(1)
    value = critic(torch.cat([state, action], 1)).squeeze(1)
    picked = F.gumbel_softmax(choice(state), hard=True)
    z = spiking(state)
    level = z + (z.round() - z).detach()
    loss = -(log_prob * (reward - value.detach())).mean() + F.mse_loss(value, reward)
    loss = loss + (picked @ torch.arange(3.0) - state[:, 0].round()).pow(2).mean() + Spike.apply(level).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
