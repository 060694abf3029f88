"""Ties that hold through loading, copying and moving; a head that is exchanged; and copies that are meant."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

torch.manual_seed(0)


class LM(nn.Module):
    def __init__(self, vocab=16, dim=16):
        super().__init__()
        self.embed, self.mix, self.head = (
            nn.Embedding(vocab, dim),
            nn.Linear(dim, dim),
            nn.Linear(dim, vocab, bias=False),
        )
        self.tie()

    def tie(self):
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.mix(self.embed(ids))))


class LoRA(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.weight = base.weight  # the same parameter
        self.a = nn.Parameter(0.1 * torch.randn(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return F.linear(x, self.weight + self.b @ self.a)


moved = LM().to(torch.float64).to(torch.float32)
moved.load_state_dict(LM().state_dict(), assign=True)
moved.tie()  # last
copied = copy.deepcopy(LM())
classifier = LM()
classifier.head = nn.Linear(16, 3)  # another head, on purpose
untied = LM()
untied.head.weight = nn.Parameter(untied.embed.weight.detach().clone())  # untied: the output is to differ from here on
adapted = LM()
adapted.mix = LoRA(adapted.mix)
normed = LM()
parametrizations.weight_norm(normed.mix)
started = nn.ModuleDict({"embed": nn.Embedding(16, 16), "out": nn.Linear(16, 16, bias=False)})
started["out"].weight.data.copy_(started["embed"].weight)  # initialized from the embeddings, trained on its own
twins = [nn.Linear(16, 16), nn.Linear(16, 16)]
twins[1].load_state_dict(twins[0].state_dict())
models = nn.ModuleList([moved, copied, classifier, untied, adapted, normed, *twins, started])
optimizer = torch.optim.AdamW(models.parameters(), lr=1e-3)
for step in range(5):
    ids = torch.randint(16, (8, 5))
    loss = sum(F.cross_entropy(m(ids).flatten(0, 1), ids.flatten()) for m in (moved, copied, untied, adapted, normed))
    loss = loss + F.cross_entropy(classifier(ids)[:, 0], ids[:, 0] % 3)
    h = started["embed"](ids)
    loss = loss + F.cross_entropy(started["out"](h + twins[0](h) - twins[1](h.detach())).flatten(0, 1), ids.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, f"{loss.item():.4f}")
