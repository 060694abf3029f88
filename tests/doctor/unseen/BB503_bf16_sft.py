"""Full fine-tuning in bf16 (weights and optimizer states), torchtune-like recipe."""
from dataclasses import dataclass

import torch
from torch import nn
import torch.nn.functional as F


@dataclass
class Recipe:
    lr: float = 2e-4
    steps: int = 60
    batch_size: int = 16
    dtype: torch.dtype = torch.bfloat16
    seed: int = 0


class Decoder(nn.Module):
    def __init__(self, vocab=24, dim=32, depth=2):
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(dim), "mix": nn.Linear(2 * dim, dim), "ff": nn.Linear(dim, dim)}) for _ in range(depth))
        self.out = nn.Linear(dim, vocab)

    def forward(self, ids):
        h = self.tok(ids)
        for layer in self.layers:
            prev = F.pad(h, (0, 0, 1, 0))[:, :-1]
            h = h + layer["ff"](F.silu(layer["mix"](torch.cat([layer["norm"](h), prev], -1))))
        return self.out(h)


def batch(bs, g, vocab=24, T=10):
    x = torch.randint(0, vocab, (bs, 1), generator=g)
    step = torch.randint(1, 3, (bs, 1), generator=g)
    seq = (x + step * torch.arange(T + 1)) % vocab
    return seq[:, :-1], seq[:, 1:]


class FullFinetuneRecipe:
    def __init__(self, cfg):
        torch.manual_seed(cfg.seed)
        self.cfg, self.gen = cfg, torch.Generator().manual_seed(cfg.seed)
        self.model = Decoder().to(dtype=cfg.dtype)  # cause: BB503
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.lr)

    def loss_step(self, batch):
        ids, labels = batch
        logits = self.model(ids)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    def train(self):
        self.model.train()
        for step in range(1, self.cfg.steps + 1):
            loss = self.loss_step(batch(self.cfg.batch_size, self.gen))
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if step % 10 == 0:
                print(f"step {step} loss {loss.item():.4f}")

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        return self.loss_step(batch(128, torch.Generator().manual_seed(99))).item()


if __name__ == "__main__":
    recipe = FullFinetuneRecipe(Recipe())
    print("before", round(recipe.validate(), 4))
    recipe.train()
    print("after", round(recipe.validate(), 4))
