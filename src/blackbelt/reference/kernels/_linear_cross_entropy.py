"""Linear layer and cross-entropy in one, a chunk of rows at a time: the logits are never all there.

    for each chunk of rows:   logits = x @ Wᵀ + b          (chunk_rows, C), in memory that every chunk uses again
                              losses, logits ← gradient    cross_entropy_ of the backend
                              grad_x = grad @ W,   grad_W += gradᵀ @ x,   grad_b += Σ grad

The gradients are ready when the loss is; the backward only multiplies them by the gradient of the loss.
Reference: Liger-Kernel's FusedLinearCrossEntropy (Hsu et al. 2024, https://arxiv.org/abs/2410.10989).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blackbelt.reference.kernels._eager import wide

# A matrix product of fewer rows no longer keeps the cores busy.
SMALLEST_CHUNK = 256


class Problem(NamedTuple):
    """One loss: R rows of D features, C classes."""

    input: Tensor  # (R, D)
    weight: Tensor  # (C, D)
    bias: Tensor | None  # (C,)
    target: Tensor  # (R,)
    ignore_index: int
    mean: bool


def choose_chunk_rows(rows: int, features: int, classes: int) -> int:
    """Return the rows of a chunk: so many that its logits take the bytes of the input, and at least 256."""
    return max(1, min(rows, max(SMALLEST_CHUNK, rows * features // max(classes, 1))))


def loss_and_gradients(
    problem: Problem, chunk_rows: int, wanted: list[bool], backend: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss in ``wide``, and the gradients of input, weight and bias, each empty where it is not wanted."""
    x, target = problem.input, problem.target
    dtype = wide(x)
    count = (target != problem.ignore_index).sum().to(dtype)
    if x.size(0):  # chunks of even sizes: a last one of few rows would be summed in another order, less exactly
        chunk_rows = math.ceil(x.size(0) / math.ceil(x.size(0) / chunk_rows))
    factor = count.reciprocal() if problem.mean else torch.ones_like(count)
    gradients = _Gradients(problem, chunk_rows, wanted)
    total = x.new_zeros((), dtype=dtype)
    room = x.new_empty(min(chunk_rows, x.size(0)), problem.weight.size(0))
    for start in range(0, x.size(0), chunk_rows):
        rows = slice(start, start + chunk_rows)
        logits = _linear(x[rows], problem, room)
        if any(wanted):
            losses = backend.cross_entropy_(logits, target[rows], problem.ignore_index, factor)
            gradients.add(rows, logits)
        else:
            losses, _ = backend.cross_entropy(logits, target[rows], problem.ignore_index)
        total += losses.sum()
    return (total / count if problem.mean else total), *gradients.results()


def _linear(x: Tensor, problem: Problem, room: Tensor) -> Tensor:
    out = room[: x.size(0)]
    if problem.bias is None:
        return torch.mm(x, problem.weight.mT, out=out)
    return torch.addmm(problem.bias, x, problem.weight.mT, out=out)


class _Gradients:
    """The gradients that are wanted, as they come together from the chunks.

    Half precision accumulates in float32 where there are several chunks: rounding after each would add up.
    """

    def __init__(self, problem: Problem, chunk_rows: int, wanted: list[bool]) -> None:
        self.problem, self.wanted = problem, wanted
        x, weight, bias = problem.input, problem.weight, problem.bias
        self.input = torch.empty_like(x) if wanted[0] else x.new_empty(0)
        is_one = x.size(0) <= chunk_rows
        dtype = weight.dtype if is_one else wide(weight)
        self.weight = torch.zeros_like(weight, dtype=dtype) if wanted[1] else weight.new_empty(0)
        has_bias = wanted[2] and bias is not None
        self.bias = weight.new_zeros(weight.size(0), dtype=wide(weight)) if has_bias else weight.new_empty(0)

    def add(self, rows: slice, grad: Tensor) -> None:
        """Take in the gradient of a chunk of logits."""
        x = self.problem.input[rows]
        if self.wanted[0]:
            torch.mm(grad, self.problem.weight, out=self.input[rows])
        if self.wanted[2]:
            self.bias += grad.sum(0, dtype=self.bias.dtype)
        if not self.wanted[1]:
            return
        if self.weight.dtype == x.dtype:
            self.weight.addmm_(grad.mT, x)
            return
        for classes in range(0, grad.size(1), SMALLEST_CHUNK):  # a product of all classes would be another gradient
            part = slice(classes, classes + SMALLEST_CHUNK)
            self.weight[part] += grad[:, part].mT @ x

    def results(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return them in the dtypes of what they are gradients of."""
        return self.input, self.weight.to(self.problem.weight.dtype), self.bias.to(self.problem.weight.dtype)
