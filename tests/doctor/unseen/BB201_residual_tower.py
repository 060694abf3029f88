"""AlphaZero-ish board evaluator with a residual tower."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class ResBlock(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.conv1 = nn.Conv2d(ch, ch, 3, padding=1)
        self.conv2 = nn.Conv2d(ch, ch, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class BoardNet(nn.Module):
    def __init__(self, ch=12, n_blocks=3, board=6):
        super().__init__()
        self.stem = nn.Conv2d(2, ch, 3, padding=1)
        self.tower = [ResBlock(ch) for _ in range(n_blocks)]  # cause: BB201
        self.policy = nn.Linear(ch * board * board, board * board)
        self.value = nn.Sequential(nn.Linear(ch * board * board, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh())

    def forward(self, s):
        h = F.relu(self.stem(s))
        for block in self.tower:
            h = block(h)
        h = h.flatten(1)
        return self.policy(h), self.value(h).squeeze(-1)


class ReplayBuffer:
    def __init__(self, n, seed, board=6):
        g = torch.Generator().manual_seed(seed)
        self.g = g
        self.states = (torch.rand(n, 2, board, board, generator=g) < 0.3).float()
        diff = self.states[:, 0] - self.states[:, 1]
        local = F.avg_pool2d(F.avg_pool2d(diff.unsqueeze(1), 3, 1, 1).relu(), 3, 1, 1)
        self.pi = local.flatten(1).argmax(1)
        self.z = torch.tanh(diff.mean((1, 2)) * 6)

    def sample(self, bs):
        i = torch.randint(0, len(self.z), (bs,), generator=self.g)
        return self.states[i], self.pi[i], self.z[i]


def main():
    torch.manual_seed(11)
    buf, test = ReplayBuffer(400, 0), ReplayBuffer(100, 1)
    net = BoardNet()
    opt = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-4)
    for step in range(1, 61):
        net.train()
        s, pi, z = buf.sample(32)
        logits, v = net(s)
        loss = F.cross_entropy(logits, pi) + F.mse_loss(v, z)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 20 == 0:
            net.eval()
            with torch.no_grad():
                lo, v = net(test.states)
                acc = (lo.argmax(1) == test.pi).float().mean()
            print(f"step {step} loss {loss.item():.3f} policy acc {acc:.3f} value mse {F.mse_loss(v, test.z):.3f}")
    print("parameters:", sum(p.numel() for p in net.parameters()))


main()
