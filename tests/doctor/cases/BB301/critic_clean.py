"""Actor and critic on a toy control problem: the critic is fitted to discounted returns."""

import torch
from torch import nn

torch.manual_seed(7)
GAMMA = 0.9

actor = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
critic = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-2)


def rollout(length=20):
    state, states, actions, rewards = torch.randn(3), [], [], []
    for _ in range(length):
        action = torch.distributions.Categorical(logits=actor(state).detach()).sample()
        states.append(state)
        actions.append(action)
        rewards.append(-state.norm())
        state = 0.9 * state + 0.2 * (action.float() - 0.5) + 0.05 * torch.randn(3)
    returns, running = [], torch.tensor(0.0)
    for reward in reversed(rewards):
        running = reward + GAMMA * running
        returns.insert(0, running)
    return torch.stack(states), torch.stack(actions), torch.stack(returns)


for iteration in range(6):
    states, actions, returns = rollout()
    values = critic(states)
    advantages = returns - values.detach().squeeze(-1)
    log_probs = torch.distributions.Categorical(logits=actor(states)).log_prob(actions)
    policy_loss = -(log_probs * advantages).mean()
    value_loss = torch.pow(returns - values.squeeze(-1), 2).mean()
    loss = policy_loss + 0.5 * value_loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
    optimizer.step()
    print(f"iteration {iteration}: policy {policy_loss.item():.4f} value {value_loss.item():.4f}")
