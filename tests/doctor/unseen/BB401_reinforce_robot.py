"""REINFORCE with a running baseline: a point robot must push by the right amount."""
import torch
import torch.nn as nn
from torch.distributions import Normal

GAMMA, HORIZON, BATCH = 0.5, 6, 8


class PointRobot:
    def __init__(self, seed):
        self.gen = torch.Generator().manual_seed(seed)

    def reset(self):
        self.t = 0
        self.pos = torch.randn(2, generator=self.gen)
        return self.pos

    def step(self, action):
        self.t += 1
        reward = -float((action - self.pos[0] + 0.5 * self.pos[1]) ** 2)
        self.pos = torch.randn(2, generator=self.gen)
        return self.pos, reward, self.t >= HORIZON


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine = nn.Linear(2, 24)
        self.mean = nn.Linear(24, 1)

    def forward(self, x):
        return Normal(self.mean(torch.tanh(self.affine(x))).squeeze(-1), 0.5)


def run_episode(env, policy):
    log_probs, rewards, done, s = [], [], False, env.reset()
    while not done:
        dist = policy(s)
        a = dist.sample()
        s, r, done = env.step(a.item())
        log_probs.append(dist.log_prob(a))
        rewards.append(r)
    return log_probs, rewards


def finish_episodes(batch, optimizer, baseline):
    losses = []
    for log_probs, rewards in batch:
        R, returns = 0.0, []
        for r in reversed(rewards):
            R = r + GAMMA * R
            returns.insert(0, R)
        adv = torch.tensor(returns) - baseline
        losses.append(-(torch.stack(log_probs) * adv).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    optimizer.step()  # cause: BB401
    return loss.item()


def main():
    torch.manual_seed(543)
    env, policy = PointRobot(0), Policy()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.05)
    baseline, running = -4.0, None
    for i in range(1, 41):
        batch = [run_episode(env, policy) for _ in range(BATCH)]
        ret = sum(sum(r) for _, r in batch) / BATCH / HORIZON
        loss = finish_episodes(batch, optimizer, baseline)
        baseline = 0.9 * baseline + 0.1 * ret * 1.8
        running = ret if running is None else 0.8 * running + 0.2 * ret
        if i % 10 == 0:
            print(f"update {i}\tloss {loss:.3f}\taverage reward {running:.3f}")


if __name__ == "__main__":
    main()
