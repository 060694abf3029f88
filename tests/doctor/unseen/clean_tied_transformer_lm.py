"""Decoder-only LM with tied embeddings, weight-decay groups deduplicated, residual init scaled."""
import math
import torch
import torch.nn as nn
import torch.nn.functional as F

V, D, L, H, T, BS = 18, 32, 2, 4, 12, 12


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))

    def forward(self, x):
        B, T_, _ = x.shape
        q, k, v = self.qkv(self.n1(x)).view(B, T_, 3, H, D // H).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        x = x + self.proj(a.transpose(1, 2).reshape(B, T_, D))
        return x + self.mlp(self.n2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, D), nn.Embedding(T, D)
        self.blocks = nn.ModuleList(Block() for _ in range(L))
        self.norm = nn.LayerNorm(D)
        self.lm_head = nn.Linear(D, V, bias=False)
        self.apply(self._init)
        for name, p in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * L))
        self.lm_head.weight = self.wte.weight

    def _init(self, m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            nn.init.normal_(m.weight, std=0.02)
        if isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for b in self.blocks:
            x = b(x)
        logits = self.lm_head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batch(g):
    start = torch.randint(0, V, (BS, 1), generator=g)
    inc = torch.randint(1, 3, (BS, T), generator=g)
    s = torch.cat([start, (start + inc.cumsum(1)) % V], 1)
    return s[:, :-1], s[:, 1:]


torch.manual_seed(0)
model = GPT()
decay = [p for p in model.parameters() if p.dim() >= 2]
no_decay = [p for p in model.parameters() if p.dim() < 2]
opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}], lr=3e-3, betas=(0.9, 0.95))
g, gv = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
for it in range(40):
    model.train()
    for group in opt.param_groups:
        group["lr"] = 3e-3 * min(1.0, (it + 1) / 5)
    loss = model(*batch(g))
    opt.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    if it % 10 == 9:
        model.eval()
        with torch.no_grad():
            print(f"iter {it + 1} train {loss.item():.3f} val {model(*batch(gv)).item():.3f} (entropy {math.log(2):.3f})")
