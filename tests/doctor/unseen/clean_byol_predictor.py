"""BYOL: target network updated by momentum (parameters and buffers), stop-gradient, no negatives; cosine momentum schedule."""
import copy
import math
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


def mlp(i, h, o):
    return nn.Sequential(nn.Linear(i, h), nn.BatchNorm1d(h), nn.ReLU(inplace=True), nn.Linear(h, o))


class BYOL(nn.Module):
    def __init__(self, tau=0.9):
        super().__init__()
        self.online = nn.Sequential(mlp(14, 48, 24), mlp(24, 48, 12))
        self.target = copy.deepcopy(self.online)
        for p in self.target.parameters():
            p.requires_grad = False
        self.predictor = mlp(12, 24, 12)
        self.base_tau = self.tau = tau

    @torch.no_grad()
    def momentum_update(self, k, K):
        self.tau = 1 - (1 - self.base_tau) * (math.cos(math.pi * k / K) + 1) / 2
        for o, t in zip(self.online.parameters(), self.target.parameters()):
            t.lerp_(o, 1 - self.tau)
        for o, t in zip(self.online.buffers(), self.target.buffers()):
            t.copy_(o)

    def forward(self, a, b):
        p1, p2 = self.predictor(self.online(a)), self.predictor(self.online(b))
        with torch.no_grad():
            t1, t2 = self.target(a), self.target(b)
        return 2 - F.cosine_similarity(p1, t2.detach()).mean() - F.cosine_similarity(p2, t1.detach()).mean()


proto = torch.randn(4, 14)
y = torch.randint(0, 4, (384,))
x = proto[y] + 0.4 * torch.randn(384, 14)
aug = lambda v: v * (1 + 0.2 * torch.randn(len(v), 1)) + 0.2 * torch.randn_like(v)
model = BYOL()
opt = torch.optim.AdamW([*model.online.parameters(), *model.predictor.parameters()], lr=2e-3)
K, k = 3 * 6, 0
for epoch in range(3):
    model.train()
    for idx in torch.randperm(384).split(64):
        loss = model(aug(x[idx]), aug(x[idx]))
        opt.zero_grad()
        loss.backward()
        opt.step()
        k += 1
        model.momentum_update(k, K)
    model.eval()
    with torch.no_grad():
        h = F.normalize(model.online[0](x), dim=1)
        sim = h[:100] @ h[100:].t()
        knn = y[100:][sim.topk(5).indices].mode(1).values
    print(f"epoch {epoch} loss {loss.item():.4f} tau {model.tau:.3f} kNN {(knn == y[:100]).float().mean():.3f}")
