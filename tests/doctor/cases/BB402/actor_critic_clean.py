"""DDPG on a point that should go to the origin."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class Agent:
    def __init__(self):
        self.actor = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=1e-3)

    def update(self, state, action, reward, following):
        with torch.no_grad():
            q_next = self.target(torch.cat([following, self.actor(following)], 1))
        critic_loss = F.mse_loss(self.critic(torch.cat([state, action], 1)), reward + 0.9 * q_next)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()

        actor_loss = -self.critic(torch.cat([state, self.actor(state)], 1)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        for p, t in zip(self.critic.parameters(), self.target.parameters()):
            t.data.lerp_(p.data, 0.05)
        return critic_loss.item(), actor_loss.item()


torch.manual_seed(1)
agent = Agent()
for step in range(10):
    state, action = torch.randn(32, 2), torch.rand(32, 1) * 2 - 1
    following = torch.cat([state[:, :1] + 0.1 * state[:, 1:], state[:, 1:] + 0.1 * action], 1)
    print(
        step, *(f"{loss:.4f}" for loss in agent.update(state, action, -following.norm(dim=1, keepdim=True), following))
    )
