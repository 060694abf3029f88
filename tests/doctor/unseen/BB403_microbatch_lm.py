"""GPT-ish training script with micro batches. Config overridable from the command line (nanoGPT style)."""
import sys
import torch
import torch.nn as nn
from torch.nn import functional as F

# -----------------------------------------------------------------------------
gradient_accumulation_steps = 4
batch_size = 6
block_size = 12
max_iters = 24
log_interval = 8
learning_rate = 1e-2
grad_clip = 1.0
seed = 1337
# -----------------------------------------------------------------------------
for arg in sys.argv[1:]:
    key, val = arg.lstrip("-").split("=")
    globals()[key] = type(globals()[key])(val)

torch.manual_seed(seed)
vocab = 20
gen = torch.Generator().manual_seed(0)
table = torch.randint(0, vocab, (vocab, 2), generator=gen)
data = [0]
for k in torch.randint(0, 2, (1500,), generator=gen).tolist():
    data.append(int(table[data[-1], k]) if data[-1] != 0 else int(torch.randint(0, vocab, (1,), generator=gen)))
data = torch.tensor(data)


def get_batch(split):
    lo, hi = (0, 1200) if split == "train" else (1200, len(data) - block_size - 1)
    ix = torch.randint(lo, hi, (batch_size,))
    x = torch.stack([data[i:i + block_size] for i in ix])
    y = torch.stack([data[i + 1:i + 1 + block_size] for i in ix])
    return x, y


class LM(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.wte = nn.Embedding(vocab, dim)
        self.rnn = nn.LSTM(dim, dim, batch_first=True)
        self.head = nn.Linear(dim, vocab)

    def forward(self, idx, targets):
        logits = self.head(self.rnn(self.wte(idx))[0])
        return logits, F.cross_entropy(logits.view(-1, vocab), targets.view(-1))


model = LM()
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
for iter_num in range(1, max_iters + 1):
    for micro_step in range(gradient_accumulation_steps):
        X, Y = get_batch("train")
        logits, loss = model(X, Y)
        loss = loss / gradient_accumulation_steps
        optimizer.zero_grad(set_to_none=True)  # cause: BB403
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    if iter_num % log_interval == 0:
        model.eval()
        with torch.no_grad():
            val = sum(model(*get_batch("val"))[1].item() for _ in range(4)) / 4
        model.train()
        print(f"iter {iter_num}: loss {loss.item() * gradient_accumulation_steps:.4f}, val {val:.4f}")
