"""RankNet: (N,1) - (1,N) broadcasting of scores inside a query is intended; masked pairwise logistic loss."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Scorer(nn.Module):
    def __init__(self, d=12):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.net(x)


def query(g, n=10):
    x = torch.randn(n, 12, generator=g)
    rel = (x[:, 0] + x[:, 1] * 0.5 + 0.2 * torch.randn(n, generator=g)).mul(2).round().clamp(0, 3)
    return x, rel


def ranknet(scores, rel):
    diff = scores - scores.t()                     # (N, N)
    better = (rel[:, None] > rel[None, :]).float()
    n = better.sum()
    return (F.softplus(-diff) * better).sum() / n.clamp(min=1)


def ndcg(scores, rel, k=5):
    gain = lambda r: ((2 ** r - 1) / torch.log2(torch.arange(len(r)) + 2.0)).sum()
    ideal = gain(rel.sort(descending=True).values[:k])
    return (gain(rel[scores.flatten().argsort(descending=True)][:k]) / ideal.clamp(min=1e-9)).item()


torch.manual_seed(0)
g = torch.Generator().manual_seed(0)
test = [query(torch.Generator().manual_seed(100 + i)) for i in range(30)]
model = Scorer()
opt = torch.optim.Adam(model.parameters(), lr=5e-3)
for step in range(1, 31):
    model.train()
    loss = torch.stack([ranknet(model(x), r) for x, r in (query(g) for _ in range(8))]).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 0:
        model.eval()
        with torch.no_grad():
            score = sum(ndcg(model(x), r) for x, r in test) / len(test)
        print(f"step {step} loss {loss.item():.4f} ndcg@5 {score:.3f}")
