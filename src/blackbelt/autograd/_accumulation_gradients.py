"""The gradients while they accumulate: set aside what was there, add up, scale once, hand over; or put all back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_HALF = (torch.float16, torch.bfloat16)


class Window:
    """``.grad`` of the parameters from the first micro-batch to the last.

    What was in ``.grad`` before is set aside and added back at the end, so that no division reaches it. Gradients of
    float16 and bfloat16 parameters are added up in float32: k additions in 8 bits would lose what the large batch,
    which adds up inside one matrix product, keeps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, may_be_overwritten: bool) -> None:
        self._parameters = parameters
        self._sums: dict[int, torch.Tensor] = {}
        self._before = [parameter.grad for parameter in parameters]
        # DDP may keep .grad in the memory it communicates from (gradient_as_bucket_view): there only a copy is safe.
        self._copies = [
            gradient.clone() if may_be_overwritten and gradient is not None else None for gradient in self._before
        ]
        for parameter in parameters:
            parameter.grad = None

    @torch.no_grad()
    def fold(self) -> None:
        """Move what a backward left in half-precision gradients into their float32 sums."""
        for index, parameter in enumerate(self._parameters):
            gradient = parameter.grad
            if gradient is None or gradient.dtype not in _HALF:
                continue
            wide = gradient.to(torch.float32)
            self._sums[index] = self._sums[index] + wide if index in self._sums else wide
            parameter.grad = None

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply what has been accumulated by ``factor``, and have it all in ``.grad``."""
        dense = []
        for index, parameter in enumerate(self._parameters):
            if index in self._sums:
                parameter.grad = self._sums.pop(index).mul_(factor).to(parameter.dtype)
            elif parameter.grad is not None and parameter.grad.layout is torch.strided:
                dense.append(parameter.grad)
            elif parameter.grad is not None:
                parameter.grad.mul_(factor)
        if dense and factor != 1:
            torch._foreach_mul_(dense, factor)  # what torch.optim uses: one kernel for many tensors

    @torch.no_grad()
    def close(self) -> None:
        """Add what was in ``.grad`` before, in the memory where it was."""
        for parameter, before, copy in zip(self._parameters, self._before, self._copies):
            gradient = parameter.grad
            if before is None:
                continue
            if gradient is None:
                parameter.grad = before if copy is None else before.copy_(copy)
            elif copy is not None:
                parameter.grad = _sum(gradient, copy)
            else:
                parameter.grad = _sum(before, gradient)

    @torch.no_grad()
    def restore(self) -> None:
        """Put ``.grad`` back as it was before the first micro-batch."""
        self._sums.clear()
        for parameter, before, copy in zip(self._parameters, self._before, self._copies):
            parameter.grad = before if before is None or copy is None else before.copy_(copy)


def _sum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Add ``other`` to ``one`` in place; where their layouts differ, into a dense tensor."""
    if one.layout is not torch.strided and other.layout is torch.strided:
        return other + one
    return one.add_(other)
