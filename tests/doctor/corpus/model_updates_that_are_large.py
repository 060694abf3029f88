"""Steps that are large and right: regressions from zeros and tiny weights, Adam with a rate of 10, word vectors, warmup."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
weight, bias = torch.zeros(5, requires_grad=True), torch.zeros(1, requires_grad=True)
prices = nn.Linear(3, 1)
digits = nn.Linear(784, 10)
nn.init.normal_(digits.weight, std=1e-5)
nn.init.zeros_(digits.bias)
salaries = nn.Linear(1, 1)
words, contexts = nn.Embedding(30, 8), nn.Embedding(30, 8)
nn.init.zeros_(contexts.weight)
curve = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
groups = {
    "zeros": torch.optim.SGD([weight, bias], lr=1e-1),
    "prices": torch.optim.SGD(prices.parameters(), lr=1e-5),
    "digits": torch.optim.SGD(digits.parameters(), lr=0.5),
    "salaries": torch.optim.Adam(salaries.parameters(), lr=10.0),
    "words": torch.optim.SGD([*words.parameters(), *contexts.parameters()], lr=1.0),
    "curve": torch.optim.SGD(curve.parameters(), lr=1.0),
}
warmup = torch.optim.lr_scheduler.LambdaLR(groups["curve"], lambda step: min(1.0, (step + 1) / 1000))


def losses():
    x = torch.randn(20, 5)
    yield "zeros", F.mse_loss(x @ weight + bias, 3 * x.sum(1))
    x = 100 * torch.rand(20, 3)
    yield "prices", F.mse_loss(prices(x), 50 * x.sum(1, keepdim=True))
    x = torch.rand(32, 784)
    yield "digits", F.cross_entropy(digits(x), x[:, :10].argmax(1))
    x = torch.randn(16, 1)
    yield "salaries", F.mse_loss(salaries(x), 1000 * x + 500)
    a, b = torch.randint(30, (64,)), torch.randint(30, (64,))
    yield "words", F.binary_cross_entropy_with_logits((words(a) * contexts(b)).sum(1), (a == b).float())
    x = 5 * torch.randn(32, 1)
    yield "curve", F.smooth_l1_loss(curve(x), x.square())


for epoch in range(3):
    for name, loss in losses():
        groups[name].zero_grad()
        loss.backward()
        groups[name].step()
        print(epoch, name, f"{loss.item():.4f}")
    warmup.step()
