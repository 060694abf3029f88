"""Double DQN with a hard-updated target network that never sees an optimizer, eps-greedy behaviour, smooth L1 TD error."""
import random
import torch
import torch.nn as nn
import torch.nn.functional as F


class QNet(nn.Module):
    def __init__(self, s=4, a=3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(s, 32), nn.ReLU())
        self.adv, self.val = nn.Linear(32, a), nn.Linear(32, 1)

    def forward(self, s):
        h = self.body(s)
        a = self.adv(h)
        return self.val(h) + a - a.mean(1, keepdim=True)


class Env:
    def __init__(self, seed):
        self.g = torch.Generator().manual_seed(seed)
        self.s = torch.randn(4, generator=self.g)

    def step(self, a):
        r = float(self.s[a].item() == self.s[:3].max().item())
        done = bool(torch.rand(1, generator=self.g) < 0.1)
        self.s = torch.randn(4, generator=self.g)
        return self.s, r, done


def main():
    torch.manual_seed(0)
    random.seed(0)
    env, q, target = Env(0), QNet(), QNet()
    target.load_state_dict(q.state_dict())
    target.requires_grad_(False).eval()
    opt = torch.optim.Adam(q.parameters(), lr=5e-3)
    memory, s, rewards = [], env.s, []
    for t in range(1, 201):
        eps = max(0.05, 1 - t / 120)
        if random.random() < eps:
            a = random.randrange(3)
        else:
            with torch.no_grad():
                a = q(s[None]).argmax(1).item()
        s2, r, done = env.step(a)
        memory.append((s, a, r, s2, float(done)))
        s = s2
        rewards.append(r)
        if t >= 40 and t % 4 == 0:
            S, A, R, S2, Dn = zip(*random.sample(memory, 32))
            S, S2, A = torch.stack(S), torch.stack(S2), torch.tensor(A)
            R, Dn = torch.tensor(R), torch.tensor(Dn)
            with torch.no_grad():
                best = q(S2).argmax(1, keepdim=True)
                y = R + 0.5 * (1 - Dn) * target(S2).gather(1, best).squeeze(1)
            loss = F.smooth_l1_loss(q(S).gather(1, A[:, None]).squeeze(1), y)
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_value_(q.parameters(), 10)
            opt.step()
        if t % 40 == 0:
            target.load_state_dict(q.state_dict())
            if t > 40:
                print(f"t {t} eps {eps:.2f} reward {sum(rewards[-40:]) / 40:.2f} loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
