"""A policy that draws its action by `torch.normal` in its forward; the action's log probability is in the loss."""

import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
        self.mean, self.value = nn.Linear(16, 2), nn.Linear(16 + 2, 1)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, state):
        hidden = self.body(state)
        mean, std = self.mean(hidden), self.log_std.exp().expand(len(state), 2)
        action = torch.normal(mean, std)
        value = self.value(torch.cat([hidden, action], -1)).squeeze(-1)
        log_prob = -(((action - mean) / std).square() / 2 + std.log()).sum(-1)
        return action, value, log_prob


torch.manual_seed(6)
policy = Policy()
optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
for step in range(10):
    state = torch.randn(32, 4)
    action, value, log_prob = policy(state)
    reward = -(action.detach() - state[:, :2]).square().sum(-1)
    loss = -((reward - value.detach()) * log_prob).mean() + (reward - value).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{reward.mean().item():.4f}")
