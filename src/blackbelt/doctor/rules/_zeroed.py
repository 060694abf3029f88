"""Divisions by an infinity, whose result is a zero that looks like any other number."""

from __future__ import annotations

import torch
from torch import Tensor

from blackbelt.doctor.events import FunctionCall

DIVIDING = {"div", "true_divide", "divide", "__truediv__", "div_"}
SHARE = 0.5  # of the result
LARGE = 16.0  # what is divided: a quotient of smaller numbers, as a sigmoid written out has them, is as good as 0


def divides_by_infinity(call: FunctionCall) -> bool:
    """Return whether much of a result in float16 is 0 for an infinity that it was divided by."""
    result = call.result
    if call.name == "rsqrt":
        below, above = call.args[0], None
    elif call.name in DIVIDING and len(call.args) > 1:
        above, below = call.args[:2]
    else:
        return False
    if not isinstance(below, Tensor) or below.dtype != torch.float16 or not isinstance(result, Tensor):
        return False
    lost = below.detach().isinf()
    if above is not None:
        if not isinstance(above, Tensor) or not above.is_floating_point() or not bool(above.isfinite().all()):
            return False
        lost = lost & (above.detach().abs() >= LARGE)
    return bool(lost.any()) and float((lost & (result.detach() == 0)).float().mean()) >= SHARE
