"""LoRA on a frozen base with non-reentrant activation checkpointing; adapters do receive gradients."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


class LoRA(nn.Module):
    def __init__(self, lin, r=4):
        super().__init__()
        self.lin = lin.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(r, lin.in_features) * 0.1)
        self.B = nn.Parameter(torch.zeros(lin.out_features, r))

    def forward(self, x):
        return self.lin(x) + x @ self.A.t() @ self.B.t() * 2


class Model(nn.Module):
    def __init__(self, d=24):
        super().__init__()
        self.emb = nn.Embedding(30, d).requires_grad_(False)
        self.layers = nn.ModuleList(nn.Sequential(nn.LayerNorm(d).requires_grad_(False), LoRA(nn.Linear(d, d)), nn.GELU(), LoRA(nn.Linear(d, d))) for _ in range(3))
        self.head = nn.Linear(d, 2)

    def forward(self, ids):
        h = self.emb(ids)
        for layer in self.layers:
            h = h + checkpoint(layer, h, use_reentrant=False)
        return self.head(h.mean(1))


torch.manual_seed(0)
g = torch.Generator().manual_seed(0)
model = Model()
trainable = [p for p in model.parameters() if p.requires_grad]
print("trainable", sum(p.numel() for p in trainable), "of", sum(p.numel() for p in model.parameters()))
opt = torch.optim.AdamW(trainable, lr=1e-2)
draw = lambda n, gen: (lambda ids: (ids, ((ids < 10).sum(1) > 3).long()))(torch.randint(0, 30, (n, 10), generator=gen))
xt, yt = draw(200, torch.Generator().manual_seed(1))
for step in range(40):
    model.train()
    ids, y = draw(32, g)
    loss = F.cross_entropy(model(ids), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 9:
        model.eval()
        with torch.no_grad():
            print(step + 1, round(loss.item(), 4), "acc", round((model(xt).argmax(1) == yt).float().mean().item(), 3))
