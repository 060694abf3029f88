"""One layer under many names, siamese towers, tied by .data for plain SGD, and two heads that trade places."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(2)


class Recurrent(nn.Module):
    def __init__(self, dim=10, depth=3):
        super().__init__()
        block = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.layers = nn.ModuleList([block] * depth)  # as in ALBERT
        self.first, self.second = nn.Linear(dim, 4), nn.Linear(dim, 4)

    def swap(self):
        self.first, self.second = self.second, self.first

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.first(x) + 0.5 * self.second(x)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(10, 6)
        self.right = nn.Linear(10, 6)
        self.right.weight, self.right.bias = self.left.weight, self.left.bias

    def forward(self, a, b):
        return F.cosine_similarity(self.left(a), self.right(b))


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        # shared architecture; the weights are each tower's own, and equal at first
        self.left = nn.TransformerEncoder(nn.TransformerEncoderLayer(10, 2, 16, dropout=0.0, batch_first=True), 2)
        self.right = copy.deepcopy(self.left)

    def forward(self, a, b):
        return (self.left(a.unsqueeze(1)) * self.right(b.unsqueeze(1))).mean()


recurrent, siamese, towers = Recurrent(), Siamese(), Towers()
decoder = nn.ModuleDict({"embed": nn.Embedding(12, 10), "out": nn.Linear(10, 12, bias=False)})
decoder["out"].weight.data = decoder["embed"].weight.data  # plain SGD adds up the two updates
adam = torch.optim.Adam([*recurrent.parameters(), *siamese.parameters(), *towers.parameters()], lr=1e-3)
sgd = torch.optim.SGD(decoder.parameters(), lr=0.1)
for step in range(6):
    if step == 3:
        recurrent.swap()
    x = torch.randn(16, 10)
    loss = F.cross_entropy(recurrent(x), x[:, :4].argmax(1)) + (1 - siamese(x, x + 0.1 * torch.randn_like(x))).mean()
    loss = loss + towers(x, x.flip(0))
    adam.zero_grad()
    loss.backward()
    adam.step()
    ids = torch.randint(12, (16,))
    word_loss = F.cross_entropy(decoder["out"](decoder["embed"](ids)), ids)
    sgd.zero_grad()
    word_loss.backward()
    sgd.step()
    print(step, f"{loss.item():.4f} {word_loss.item():.4f}")
