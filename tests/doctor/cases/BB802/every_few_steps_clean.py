"""A language model trained by iterations, as in small GPT scripts: losses are estimated every few steps."""

import torch
from torch import nn

torch.manual_seed(4)
tokens = torch.randint(20, (600,))
splits = {"train": tokens[:500], "val": tokens[500:]}
block, batch_size = 8, 12


class TinyGPT(nn.Module):
    def __init__(self, vocab=20, dim=24):
        super().__init__()
        self.embed, self.position = nn.Embedding(vocab, dim), nn.Embedding(block, dim)
        self.drop = nn.Dropout(0.2)
        self.layer = nn.TransformerEncoderLayer(dim, 2, 48, dropout=0.2, batch_first=True)
        self.lm_head = nn.Linear(dim, vocab)

    def forward(self, ids, targets=None):
        x = self.drop(self.embed(ids) + self.position(torch.arange(ids.size(1))))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.size(1))
        logits = self.lm_head(self.layer(x, src_mask=mask, is_causal=True))
        return logits, None if targets is None else nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def get_batch(split):
    data = splits[split]
    start = torch.randint(len(data) - block - 1, (batch_size,))
    return torch.stack([data[i : i + block] for i in start]), torch.stack([data[i + 1 : i + 1 + block] for i in start])


@torch.no_grad()
def estimate_loss(model, eval_iters=3):
    out = {}
    model.eval()
    for split in splits:
        losses = torch.zeros(eval_iters)
        for k in range(eval_iters):
            ids, targets = get_batch(split)
            losses[k] = model(ids, targets)[1]
        out[split] = losses.mean().item()
    model.train()
    return out


model = TinyGPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for iteration in range(9):
    if iteration % 4 == 0 and iteration:
        print(iteration, {name: round(value, 3) for name, value in estimate_loss(model).items()})
    ids, targets = get_batch("train")
    _, loss = model(ids, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
