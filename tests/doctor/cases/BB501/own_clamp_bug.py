"""A policy head fitted to returns; gradients are clamped by hand as in the first DQN code."""

import torch
from torch import nn


class QNet(nn.Module):
    def __init__(self, obs=6, actions=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs, 24), nn.ReLU())
        self.head = nn.Linear(24, actions)

    def forward(self, obs):
        return self.head(self.body(obs))


def optimize(policy, target, optimizer, scaler, batch, gamma=0.9):
    obs, action, reward, following = batch
    q = policy(obs).gather(1, action.unsqueeze(1)).squeeze(1)
    with torch.no_grad():
        best = target(following).max(1).values
    loss = nn.functional.smooth_l1_loss(q, reward + gamma * best)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    for param in policy.parameters():
        param.grad.data.clamp_(-1, 1)  # cause: BB501
    scaler.step(optimizer)
    scaler.update()
    return loss.item()


torch.manual_seed(7)
policy, target = QNet(), QNet()
target.load_state_dict(policy.state_dict())
optimizer = torch.optim.RMSprop(policy.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13)
for step in range(12):
    obs = torch.randn(32, 6)
    action = torch.randint(3, (32,))
    reward = obs[:, 0] * (action == 0).float()
    print(step, f"{optimize(policy, target, optimizer, scaler, (obs, action, reward, torch.randn(32, 6))):.4f}")
    if step % 5 == 4:
        target.load_state_dict(policy.state_dict())
