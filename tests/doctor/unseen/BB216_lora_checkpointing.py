"""LoRA fine-tuning with gradient checkpointing to save memory."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r=4, alpha=8):
        super().__init__()
        self.base = base
        self.base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, base.in_features) * 0.05)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x):
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class Model(nn.Module):
    def __init__(self, vocab=40, dim=24, depth=3, classes=3):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.score = nn.Linear(dim, classes)
        self.gradient_checkpointing = False

    def forward(self, ids):
        h = self.embed(ids)
        for blk in self.blocks:
            if self.gradient_checkpointing and self.training:
                h = checkpoint(blk, h, use_reentrant=True)  # cause: BB216
            else:
                h = blk(h)
        return self.score(h.mean(1))


def get_peft_model(model):
    model.requires_grad_(False)
    for blk in model.blocks:
        blk.fc1, blk.fc2 = LoRALinear(blk.fc1), LoRALinear(blk.fc2)
    model.score.requires_grad_(True)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"trainable params: {trainable} / {sum(p.numel() for p in model.parameters())}")
    return model


def sample(n, g):
    ids = torch.randint(0, 40, (n, 10), generator=g)
    return ids, (ids.sum(1) // 70).clamp(0, 4) % 3


def main():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    model = get_peft_model(Model())
    model.gradient_checkpointing = True
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    test = sample(256, torch.Generator().manual_seed(1))
    for step in range(30):
        model.train()
        ids, y = sample(32, g)
        loss = F.cross_entropy(model(ids), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 10 == 9:
            model.eval()
            with torch.no_grad():
                print(step + 1, f"loss {loss.item():.3f}", "acc", round((model(test[0]).argmax(1) == test[1]).float().mean().item(), 3))
    print("sum |lora_B| =", sum(b.fc1.lora_B.abs().sum().item() for b in model.blocks))


if __name__ == "__main__":
    main()
