"""Domain-adversarial training with a custom autograd Function for gradient reversal; lambda starts at exactly 0."""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class GradReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, lambd):
        ctx.lambd = lambd
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.lambd * grad, None


class DANN(nn.Module):
    def __init__(self):
        super().__init__()
        self.feat = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.label, self.domain = nn.Linear(16, 3), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x, lambd):
        h = self.feat(x)
        return self.label(h), self.domain(GradReverse.apply(h, lambd)).squeeze(1)


def domain(n, shift, g):
    y = torch.randint(0, 3, (n,), generator=g)
    x = torch.randn(n, 8, generator=g) * 0.7
    x[torch.arange(n), y] += 2
    x[:, 5:] += shift
    return x, y


torch.manual_seed(0)
g = torch.Generator().manual_seed(0)
model = DANN()
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
xt, yt = domain(200, 2.0, g)
STEPS = 50
for step in range(STEPS):
    model.train()
    lambd = 2 / (1 + math.exp(-10 * step / STEPS)) - 1
    xs, ys = domain(32, 0.0, g)
    xu, _ = domain(32, 2.0, g)
    ls, ds = model(xs, lambd)
    _, du = model(xu, lambd)
    d_loss = F.binary_cross_entropy_with_logits(torch.cat([ds, du]), torch.cat([torch.ones(32), torch.zeros(32)]))
    loss = F.cross_entropy(ls, ys) + d_loss
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 9:
        model.eval()
        with torch.no_grad():
            acc = (model(xt, 0.0)[0].argmax(1) == yt).float().mean()
        print(f"step {step + 1} lambda {lambd:.2f} loss {loss.item():.3f} domain {d_loss.item():.3f} target acc {acc:.3f}")
