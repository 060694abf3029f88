"""Comparing tensors, and derivatives two ways: what backward says, and what central differences say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from blackbelt.autograd._functions_subject import Subject

STEP = 1e-6  # gradcheck's own step for float64

Gradient = torch.Tensor | None


def close(one: Gradient, other: Gradient, exact: bool = True, scale: float | None = None) -> bool:
    """Return whether two results agree to rounding. None is a zero gradient; NaN equals NaN.

    ``scale`` is the size of what they were computed from, where that is larger than they are: a gradient that cancels
    to zero is left with the rounding of its terms.
    """
    if one is None or other is None:
        left = one if one is not None else other
        return left is None or is_zero(left, exact)
    one, other = one.detach(), other.detach()
    if one.shape != other.shape:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    kind = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    one, other = one.to(kind), other.to(kind)
    tolerance = 1e-8 if exact else 1e-3
    atol = tolerance * max(largest([other]), scale or 0.0) + _floor(exact)
    return torch.allclose(one, other, rtol=tolerance, atol=atol, equal_nan=True)


def all_close(ones: Sequence[Gradient], others: Sequence[Gradient], exact: bool = True) -> bool:
    """Return whether two lists of results agree."""
    scale = largest(others)
    return len(ones) == len(others) and all(close(a, b, exact, scale) for a, b in zip(ones, others))


def is_zero(gradient: Gradient, exact: bool = True) -> bool:
    """Return whether a gradient is zero but for rounding."""
    return gradient is None or largest([gradient]) <= _floor(exact)


def largest(tensors: Sequence[Gradient]) -> float:
    """Return the largest finite magnitude in a list of tensors."""
    sizes = [torch.nan_to_num(t.detach().abs().double(), posinf=0.0) for t in tensors if t is not None and t.numel()]
    return max((float(size.max()) for size in sizes), default=0.0)


def _floor(exact: bool) -> float:
    """Return what rounding leaves of numbers near one: incoming gradients are standard normal."""
    return 1e-12 if exact else 1e-5


def same_bits(one: Gradient, other: Gradient) -> bool:
    """Return whether two results are the same to the bit; NaN equals NaN."""
    if one is None or other is None:
        return one is other
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124  # NaN


def random_like(tensors: Sequence[torch.Tensor], generator: torch.Generator) -> list[torch.Tensor]:
    """Return a standard normal tensor for each one given: same shape, dtype and device, contiguous."""
    randoms = []
    for tensor in tensors:
        kind = torch.complex128 if tensor.is_complex() else torch.float64
        value = torch.randn(tensor.shape, generator=generator, dtype=kind)
        randoms.append(value.to(device=tensor.device, dtype=tensor.dtype))
    return randoms


def with_graph(outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs that have a gradient."""
    return [output for output in outputs if output.requires_grad]


def pull_back(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    grad_outputs: Sequence[torch.Tensor],
    create_graph: bool = False,
) -> list[Gradient]:
    """Return the vector–Jacobian product; the graph stays, nothing is accumulated into ``.grad``."""
    return list(
        torch.autograd.grad(
            outputs, inputs, grad_outputs, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
    )


def gradients(
    subject: Subject,
    arguments: Sequence[Any] | None = None,
    leaves: Sequence[torch.Tensor] | None = None,
    prepare: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[list[torch.Tensor], list[Gradient]]:
    """Run forward and one backward with random incoming gradients (the same ones in every call)."""
    arguments = subject.fresh() if arguments is None else arguments
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad] if leaves is None else leaves
    outputs = subject.run(arguments)
    grad_outputs = random_like(with_graph(outputs), subject.generator())
    if prepare:
        grad_outputs = [prepare(g) for g in grad_outputs]
    return outputs, pull_back(with_graph(outputs), leaves, grad_outputs)


def push_forward(subject: Subject, directions: dict[int, torch.Tensor], step: float = STEP) -> list[torch.Tensor]:
    """Return the derivative of every output along ``directions``, by central differences."""
    sides = []
    for sign in (1.0, -1.0):
        arguments = subject.fresh(needing_grad=())
        for position, direction in directions.items():
            arguments[position] = arguments[position] + sign * step * direction
        with torch.no_grad():
            sides.append([output.detach().clone() for output in subject.run(arguments)])
    return [
        (plus - minus) / (2 * step) if plus.is_floating_point() or plus.is_complex() else torch.zeros_like(plus)
        for plus, minus in zip(*sides)
    ]


def inner(ones: Sequence[Gradient], others: Sequence[Gradient]) -> float:
    """Return the real inner product of two lists of tensors; None counts as zeros."""
    total = 0.0
    for one, other in zip(ones, others):
        if one is not None and other is not None:
            total += float((one.detach().conj() * other.detach()).real.sum())
    return total
