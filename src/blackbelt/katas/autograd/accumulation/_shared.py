"""What several katas of this lesson use: a tiny model with fixed weights, and micro-batches of a regression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, TypeVar

import torch
from torch import nn

from blackbelt.dojo.strategies import numbers

# Sums over micro-batches come out in any order. Right answers differ by a few roundings, wrong ones by thousands.
ROUNDINGS = 32

Model = TypeVar("Model", bound=nn.Module)
MicroBatch: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # inputs (rows, width), targets (rows, 1)


def linear(width: int = 2, seed: int = 7) -> nn.Linear:
    """Return ``nn.Linear(width, 1)`` whose numbers depend on the seed alone."""
    return fixed(nn.Linear(width, 1), seed)


def fixed(model: Model, seed: int = 7) -> Model:
    """Give every parameter of the model numbers that depend on the seed alone."""
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(numbers(tuple(parameter.shape), seed=seed + index))
    return model


def regression(sizes: Iterable[int], width: int = 2, seed: int = 0) -> list[MicroBatch]:
    """Return one micro-batch per size; the targets drift from one to the next, so that no two pull alike."""
    return [
        (numbers((size, width), seed=seed + 2 * i), numbers((size, 1), seed=seed + 2 * i + 1) + 2 * i)
        for i, size in enumerate(sizes)
    ]


def add_gradients(model: nn.Module, micro_batches: Iterable[MicroBatch], rows: int) -> None:
    """Run forward and backward of every micro-batch's summed squared error, divided by ``rows``."""
    for inputs, targets in micro_batches:
        ((model(inputs) - targets).square().sum() / rows).backward()


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    """Return what is in ``.grad``, by the parameter's name."""
    return {name: parameter.grad for name, parameter in model.named_parameters()}
