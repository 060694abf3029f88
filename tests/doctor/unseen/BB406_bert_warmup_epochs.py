"""Linear warm-up + decay, computed in optimizer steps."""
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

EPOCHS, BATCH, LR, WARMUP_RATIO = 3, 16, 5e-3, 0.1


def get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_training_steps):
    def lr_lambda(current_step):
        if current_step < num_warmup_steps:
            return current_step / max(1, num_warmup_steps)
        return max(0.0, (num_training_steps - current_step) / max(1, num_training_steps - num_warmup_steps))
    return LambdaLR(optimizer, lr_lambda)


class PairEncoder(nn.Module):
    """sentence pair similarity"""

    def __init__(self, vocab=50, dim=24):
        super().__init__()
        self.emb = nn.EmbeddingBag(vocab, dim)
        self.out = nn.Sequential(nn.Linear(3 * dim, 48), nn.GELU(), nn.Dropout(0.1), nn.Linear(48, 2))

    def forward(self, a, b):
        u, v = self.emb(a), self.emb(b)
        return self.out(torch.cat([u, v, (u - v).abs()], -1))


def pairs(n, seed):
    g = torch.Generator().manual_seed(seed)
    topic = torch.randint(0, 5, (n,), generator=g)
    other = torch.where(torch.rand(n, generator=g) < 0.5, topic, (topic + 1) % 5)
    gen = lambda t: t[:, None] * 10 + torch.randint(0, 10, (n, 8), generator=g)
    return TensorDataset(gen(topic), gen(other), (topic == other).long())


def main():
    torch.manual_seed(0)
    train_loader, dev_loader = DataLoader(pairs(320, 0), BATCH, shuffle=True), DataLoader(pairs(100, 1), 50)
    model = PairEncoder()
    no_decay = ["bias"]
    groups = [{"params": [p for n, p in model.named_parameters() if not any(k in n for k in no_decay)], "weight_decay": 0.01},
              {"params": [p for n, p in model.named_parameters() if any(k in n for k in no_decay)], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    total = len(train_loader) * EPOCHS
    scheduler = get_linear_schedule_with_warmup(optimizer, int(WARMUP_RATIO * total), total)
    for epoch in range(EPOCHS):
        model.train()
        tr = 0.0
        for a, b, y in train_loader:
            loss = nn.functional.cross_entropy(model(a, b), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            tr += loss.item()
        scheduler.step()  # cause: BB406
        model.eval()
        with torch.no_grad():
            acc = sum((model(a, b).argmax(1) == y).sum().item() for a, b, y in dev_loader) / 100
        print(f"epoch {epoch} loss {tr / len(train_loader):.4f} dev acc {acc:.3f}")


if __name__ == "__main__":
    main()
