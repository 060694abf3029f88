"""DDPG on a toy reaching task with replay buffer and soft target updates."""
import copy
from collections import deque
import random

import torch
import torch.nn as nn
import torch.nn.functional as F

class Actor(nn.Module):
    def __init__(self, s=3, a=2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(s, 32), nn.ReLU(), nn.Linear(32, a), nn.Tanh())

    def forward(self, s):
        return self.net(s)

class Critic(nn.Module):
    def __init__(self, s=3, a=2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(s + a, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, s, a):
        return self.net(torch.cat([s, a], -1))

class DDPG:
    def __init__(self, gamma=0.9, tau=0.02):
        self.gamma, self.tau = gamma, tau
        self.actor, self.critic = Actor(), Critic()
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=2e-3)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=4e-3)

    def select_action(self, s, noise=0.2):
        with torch.no_grad():
            a = self.actor(s.unsqueeze(0))[0]
        return (a + noise * torch.randn_like(a)).clamp(-1, 1)

    def train(self, batch):
        s, a, r, s2, d = (torch.stack(v) for v in zip(*batch))
        with torch.no_grad():
            target_q = r + (1 - d) * self.gamma * self.critic_target(s2, self.actor_target(s2))
        critic_loss = F.mse_loss(self.critic(s, a), target_q)
        critic_loss.backward()
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()  # cause: BB402

        actor_loss = -self.critic(s, self.actor(s)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()

        for net, tgt in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            for p, tp in zip(net.parameters(), tgt.parameters()):
                tp.data.mul_(1 - self.tau).add_(p.data, alpha=self.tau)
        return critic_loss.item(), actor_loss.item()

class Reacher:
    def reset(self):
        self.goal, self.t = torch.rand(2) * 2 - 1, 0
        return torch.cat([self.goal, torch.ones(1)])

    def step(self, a):
        self.t += 1
        r = -(a - self.goal).pow(2).sum().view(1)
        done = torch.tensor([float(self.t >= 5)])
        return self.reset_goal(), r, done

    def reset_goal(self):
        self.goal = torch.rand(2) * 2 - 1
        return torch.cat([self.goal, torch.ones(1)])

def main():
    torch.manual_seed(0), random.seed(0)
    env, agent, buffer = Reacher(), DDPG(), deque(maxlen=500)
    state, rewards = env.reset(), []
    for t in range(1, 161):
        action = agent.select_action(state)
        nxt, r, done = env.step(action)
        buffer.append((state, action, r, nxt, done))
        state = env.reset() if done.item() else nxt
        rewards.append(r.item())
        if t > 64 and t % 2 == 0:
            cl, al = agent.train(random.sample(list(buffer), 32))
        if t % 40 == 0 and t > 64:
            print(f"t {t} mean reward {sum(rewards[-40:]) / 40:.3f} critic {cl:.3f} actor {al:.3f}")

if __name__ == "__main__":
    main()
