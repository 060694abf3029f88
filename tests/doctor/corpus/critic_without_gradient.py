"""Actor and critic with dropout: the critic's estimates for the advantage are taken in training mode, as it is trained."""

import torch
from torch import nn

torch.manual_seed(19)
actor = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
critic = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))
optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)

for episode in range(10):
    obs = torch.randn(24, 4)
    with torch.no_grad():
        val = critic(obs).squeeze(-1)
    policy = torch.distributions.Categorical(logits=actor(obs))
    act = policy.sample()
    ret = (act == (obs[:, 0] > 0)).float()
    estimate = critic(obs).squeeze(-1)
    loss = -(policy.log_prob(act) * (ret - val)).mean() + 0.5 * (ret - estimate).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(episode, f"{ret.mean().item():.3f}")
