"""A small language model, losses that sum, and the oracle of the tests of accumulate: one backward in float64."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from blackbelt.autograd._accumulation_batches import to_double

VOCABULARY = 7
LENGTH = 5


class Language(nn.Module):
    def __init__(self, *, sparse=False, dropout=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, 8, sparse=sparse)
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, tokens):
        return self.head(self.dropout(self.norm(self.hidden(self.embedding(tokens)).tanh())))


def token_loss(model, micro_batch):
    tokens, labels = micro_batch
    logits = model(tokens).flatten(0, 1)
    return functional.cross_entropy(logits, labels.flatten(), reduction="sum"), (labels != -100).sum()


def square_loss(model, micro_batch):
    x, y = micro_batch
    return (model(x) - y).square().sum(), y.numel()


def weighted_loss(model, micro_batch):
    tokens, labels, weights = micro_batch
    losses = functional.cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), reduction="none")
    return (losses * weights.flatten()).sum(), weights.sum()


def tokens_and_labels(size, seed=0, ignored=0.4):
    generator = torch.Generator().manual_seed(seed)
    tokens, labels = (torch.randint(VOCABULARY, (size, LENGTH), generator=generator) for _ in range(2))
    labels[torch.rand(labels.shape, generator=generator) < ignored] = -100
    return tokens, labels


def split(tensors, sizes):
    return list(zip(*(tensor.split(list(sizes)) for tensor in tensors)))


def gradients(model):
    return [p.grad.to_dense() if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]


def large_batch(model, batch, loss, dtype=None):
    """One backward of the mean over the whole batch, on a copy: the oracle."""
    model = copy.deepcopy(model).to(dtype) if dtype else copy.deepcopy(model)
    model.zero_grad()
    total, count = loss(model, to_double(batch) if dtype == torch.float64 else batch)
    (total / count).backward()
    return gradients(model)


def error(got, reference):
    one, other = (torch.cat([tensor.double().flatten() for tensor in tensors]) for tensors in (got, reference))
    return float((one - other).norm() / other.norm()) if other.norm() else float(one.norm())


def assert_law(model, got, batch, loss):
    exact, same = large_batch(model, batch, loss, torch.float64), large_batch(model, batch, loss)
    eps = torch.finfo(same[0].dtype).eps
    assert error(got, exact) <= 2 * error(same, exact) + eps
    for one, other, third in zip(got, same, exact):  # element by element luck decides: a rounding per addition
        assert one.dtype == other.dtype
        allowed = 2 * (other.double() - third).abs().max() + len(batch[0]) * eps * third.abs().max()
        assert (one.double() - third).abs().max() <= allowed
