"""A2C on a tiny contextual environment (cleanrl style single file)."""
import argparse
import torch
import torch.nn as nn
import torch.optim as optim
from torch.distributions.categorical import Categorical


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--learning-rate", type=float, default=1e-2)
    p.add_argument("--num-updates", type=int, default=40)
    p.add_argument("--num-envs", type=int, default=16)
    p.add_argument("--num-steps", type=int, default=6)
    p.add_argument("--gamma", type=float, default=0.6)
    p.add_argument("--ent-coef", type=float, default=0.01)
    p.add_argument("--vf-coef", type=float, default=0.5)
    return p.parse_args()


class VecCorridor:
    def __init__(self, n, g):
        self.n, self.g = n, g
        self.reset()

    def reset(self):
        self.s = torch.randn(self.n, 4, generator=self.g)
        return self.s

    def step(self, a):
        reward = torch.where(a == (self.s[:, 0] > 0).long(), 1.0, -0.2) + self.s[:, 1] * 2.0
        self.s = 0.7 * self.s + 0.5 * torch.randn(self.n, 4, generator=self.g)
        return self.s, reward


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
        self.actor = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))

    def get_value(self, x):
        return self.critic(x)

    def get_action(self, x):
        probs = Categorical(logits=self.actor(x))
        a = probs.sample()
        return a, probs.log_prob(a), probs.entropy()


if __name__ == "__main__":
    args = parse_args()
    torch.manual_seed(args.seed)
    envs = VecCorridor(args.num_envs, torch.Generator().manual_seed(args.seed))
    agent = Agent()
    optimizer = optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    next_obs = envs.reset()
    for update in range(1, args.num_updates + 1):
        obs, logps, ents, rewards = [], [], [], []
        for _ in range(args.num_steps):
            obs.append(next_obs)
            action, logp, ent = agent.get_action(next_obs)
            next_obs, r = envs.step(action)
            logps.append(logp), ents.append(ent), rewards.append(r)
        with torch.no_grad():
            R = agent.get_value(next_obs).squeeze(-1)
            returns = []
            for r in reversed(rewards):
                R = r + args.gamma * R
                returns.insert(0, R)
        b_returns = torch.cat(returns)
        newvalue = agent.get_value(torch.cat(obs))
        adv = b_returns - newvalue.detach().view(-1)
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        pg_loss = -(torch.cat(logps) * adv).mean()
        v_loss = 0.5 * ((newvalue - b_returns) ** 2).mean()  # cause: BB301
        loss = pg_loss + args.vf_coef * v_loss - args.ent_coef * torch.cat(ents).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
        if update % 10 == 0:
            ev = 1 - (b_returns - newvalue.detach().view(-1)).var() / b_returns.var()
            print(f"update {update} reward {torch.cat(rewards).mean():.3f} v_loss {v_loss.item():.3f} explained_var {ev:.3f}")
