"""Next-character model on a toy text. Weights in half precision, so that a larger batch fits."""

import torch
from torch import nn

torch.manual_seed(11)
text = "the quick brown fox jumps over the lazy dog " * 20
chars = sorted(set(text))
data = torch.tensor([chars.index(c) for c in text])


class CharModel(nn.Module):
    def __init__(self, vocab, dim=32, context=8):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.mix = nn.Linear(dim * context, 64)
        self.out = nn.Linear(64, vocab)

    def forward(self, ids):
        return self.out(torch.tanh(self.mix(self.embed(ids).flatten(1))))


def get_batch(size=32, context=8):
    start = torch.randint(len(data) - context, (size,))
    return torch.stack([data[i : i + context] for i in start]), data[start + context]


model = CharModel(len(chars))
model.half()  # cause: BB503
optimizer = torch.optim.SGD(
    [
        {"params": model.embed.parameters()},
        {"params": model.mix.parameters()},
        {"params": model.out.parameters(), "lr": 5e-5},
    ],
    lr=1e-4,
)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
for step in range(12):
    ids, target = get_batch()
    loss = nn.functional.cross_entropy(model(ids).float(), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 4 == 0:
        print(step, round(loss.item(), 3))
