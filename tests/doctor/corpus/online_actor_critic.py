"""One step of one agent at a time: scalar values, a bootstrapped target, an entropy bonus."""

import torch
from torch import nn

torch.manual_seed(0)
actor = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
critic = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
state, average = torch.randn(3), 0.0
for step in range(25):
    policy = torch.distributions.Categorical(logits=actor(state))
    action = policy.sample()
    following = 0.9 * state + 0.3 * (action.float() - 0.5)
    reward = -following.norm()
    target = reward + 0.9 * critic(following).squeeze().detach()
    error = target - critic(state).squeeze()
    loss = error**2 - policy.log_prob(action) * error.detach() - 0.01 * policy.entropy()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average = 0.9 * average + 0.1 * reward.item()
    state = following
print(f"{average:.4f}")
