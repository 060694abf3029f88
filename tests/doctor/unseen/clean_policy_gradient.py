"""Batch policy gradient + value baseline; separate optimizers; losses that go up and negative are normal."""
import torch
import torch.nn as nn
from torch.distributions import Normal

torch.manual_seed(0)


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.mu = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 1))
        self.log_std = nn.Parameter(torch.zeros(1))
        self.v = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 1))

    def dist(self, s):
        return Normal(self.mu(s).squeeze(-1), self.log_std.exp())

    def value(self, s):
        return self.v(s).squeeze(-1)


def rollout(ac, n=32, horizon=5, gamma=0.9):
    s = torch.randn(n, 3)
    S, A, R = [], [], []
    with torch.no_grad():
        for _ in range(horizon):
            a = ac.dist(s).sample()
            r = -(a - s[:, 0]) ** 2 - 0.1 * s[:, 1].abs()
            S.append(s), A.append(a), R.append(r)
            s = 0.8 * s + 0.3 * torch.randn_like(s)
        ret, out = torch.zeros(n), []
        for r in reversed(R):
            ret = r + gamma * ret
            out.insert(0, ret)
    return torch.cat(S), torch.cat(A), torch.cat(out), torch.cat(R).mean().item()


ac = ActorCritic()
pi_opt = torch.optim.Adam([*ac.mu.parameters(), ac.log_std], lr=1e-2)
vf_opt = torch.optim.Adam(ac.v.parameters(), lr=1e-2)
for it in range(30):
    s, a, ret, avg = rollout(ac)
    adv = ret - ac.value(s).detach()
    adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    d = ac.dist(s)
    loss_pi = -(d.log_prob(a) * adv).mean() - 0.001 * d.entropy().mean()
    pi_opt.zero_grad()
    loss_pi.backward()
    pi_opt.step()
    for _ in range(2):
        loss_v = ((ac.value(s) - ret) ** 2).mean()
        vf_opt.zero_grad()
        loss_v.backward()
        vf_opt.step()
    if it % 6 == 5:
        print(f"it {it + 1} reward {avg:.3f} pi {loss_pi.item():+.4f} v {loss_v.item():.3f} std {ac.log_std.exp().item():.3f}")
