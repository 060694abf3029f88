"""Soft actor-critic: the policy's loss leaves gradients in the critics, and a temperature has an optimizer of its own."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
q1, q2 = (nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2))
t1, t2 = copy.deepcopy(q1), copy.deepcopy(q2)
log_alpha = torch.zeros((), requires_grad=True)
policy_optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
q_optimizer = torch.optim.Adam([*q1.parameters(), *q2.parameters()], lr=1e-3)
alpha_optimizer = torch.optim.Adam([log_alpha], lr=1e-2)


def act(state):
    mean = policy(state)
    action = mean + 0.3 * torch.randn_like(mean)
    return action, -(((action - mean) / 0.3) ** 2).sum(1, keepdim=True) / 2


for step in range(8):
    state, action, following = torch.randn(16, 4), torch.randn(16, 2), torch.randn(16, 4)
    reward = -state.norm(dim=1, keepdim=True)
    with torch.no_grad():
        next_action, log_p = act(following)
        x = torch.cat([following, next_action], 1)
        target = reward + 0.9 * (torch.min(t1(x), t2(x)) - log_alpha.exp() * log_p)
    x = torch.cat([state, action], 1)
    q_loss = F.mse_loss(q1(x), target) + F.mse_loss(q2(x), target)
    q_optimizer.zero_grad()
    q_loss.backward()
    q_optimizer.step()
    action, log_p = act(state)
    x = torch.cat([state, action], 1)
    policy_loss = (log_alpha.exp().detach() * log_p - torch.min(q1(x), q2(x))).mean()
    policy_optimizer.zero_grad()
    policy_loss.backward()
    policy_optimizer.step()
    alpha_loss = -(log_alpha * (log_p.detach() - 2)).mean()
    alpha_optimizer.zero_grad()
    alpha_loss.backward()
    alpha_optimizer.step()
    with torch.no_grad():
        for target_net, net in ((t1, q1), (t2, q2)):
            for old, new in zip(target_net.parameters(), net.parameters()):
                old.lerp_(new, 0.01)
    print(step, f"{q_loss.item():.4f} {policy_loss.item():.4f}")
