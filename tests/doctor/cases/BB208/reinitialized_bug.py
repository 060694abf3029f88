"""Character language model with tied embedding; weights are drawn anew, in the style of GPT, after construction."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class CharLM(nn.Module):
    def __init__(self, vocab=30, dim=16):
        super().__init__()
        self.embedding = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.decoder = nn.Linear(dim, vocab, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, ids):
        hidden, _ = self.rnn(self.embedding(ids))
        return self.decoder(hidden)


def init_weights(module):
    if isinstance(module, (nn.Linear, nn.Embedding)):
        module.weight = nn.Parameter(0.02 * torch.randn(module.weight.shape))  # cause: BB208


model = CharLM()
model.apply(init_weights)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
text = torch.randint(30, (200,))
for step in range(8):
    starts = torch.randint(180, (8,)).tolist()
    x = torch.stack([text[i : i + 12] for i in starts])
    y = torch.stack([text[i + 1 : i + 13] for i in starts])
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step:2d} | loss {loss.item():.3f}")
