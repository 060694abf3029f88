"""Transpose in place of a copy."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes, tensors
from blackbelt.katas.tensors.strides._shared import count

_OTHER_TRANSPOSES = dict.fromkeys(
    (
        f"torch.{where}{name}"
        for where in ("", "Tensor.")
        for name in ("transpose", "permute", "swapaxes", "movedim", "t")
    ),
    "exchange the numbers yourself and hand them to `as_strided`",
) | {"torch.einsum": "exchange the numbers yourself and hand them to `as_strided`"}


@kata(
    minutes=10,
    belt="yellow",
    hints=(
        (
            "What does a transposed tensor have that differs from the original? Print `size()`, `stride()` and "
            "`storage_offset()` of both."
        ),
        "Only two numbers in the size and two in the stride change places. Nothing in the storage moves.",
        (
            "Make lists of `x.size()` and `x.stride()`, exchange entries `first` and `second` in both (`first % "
            "x.dim()` handles negative ones), then `x.as_strided(size, stride)`: without a third argument it keeps the "
            "offset."
        ),
    ),
    cases=st.tuples(tensors(shapes(2, 4, 0, 4)), st.integers(-2, 1), st.integers(-2, 1)),
    edge_cases=lambda: {
        "a matrix": (count(2, 3), 0, 1),
        "a square matrix": (count(3, 3), 0, 1),
        "three dimensions, counted from the end": (count(2, 3, 4), -1, 0),
        "a slice that starts late": (count(4, 3)[1:], 0, 1),
        "a transposed matrix": (count(3, 2).t(), 0, 1),
        "no elements": (torch.empty(0, 3), 0, 1),
        "the same dimension twice": (count(2, 3), 1, 1),
    },
    laws=[Value(), SharesMemory(), Forbids(names=_OTHER_TRANSPOSES)],
)
def transposed(x: torch.Tensor, first: int, second: int) -> torch.Tensor:
    """Transpose in place of a copy.

    Return `x` with dimensions `first` and `second` exchanged (they may count from the end), for any strided `x`,
    without copying an element and without `transpose` or one of its relatives: all you need is `as_strided`.

    ```python
    transposed(torch.arange(6).view(2, 3), 0, 1).stride()  # (1, 3)
    ```
    """
    size, stride = list(x.size()), list(x.stride())
    size[first], size[second] = size[second], size[first]
    stride[first], stride[second] = stride[second], stride[first]
    return x.as_strided(size, stride)


@transposed.wrong(
    "It exchanges the sizes and not the strides. That is a `view` in another shape: the same elements in the same "
    "order, cut differently."
)
def sizes_alone(x, first, second):
    size = list(x.size())
    size[first], size[second] = size[second], size[first]
    return x.reshape(size)


@transposed.wrong("It starts at the beginning of the storage. A slice starts later: keep `x.storage_offset()`.")
def from_the_beginning(x, first, second):
    size, stride = list(x.size()), list(x.stride())
    size[first], size[second] = size[second], size[first]
    stride[first], stride[second] = stride[second], stride[first]
    return x.as_strided(size, stride, 0)


@transposed.wrong(
    "It computes strides as if `x` were contiguous. `x` may be transposed or sliced already: read `x.stride()`."
)
def strides_from_sizes(x, first, second):
    size, stride = list(x.size()), [math.prod(x.shape[d + 1 :]) for d in range(x.dim())]
    size[first], size[second] = size[second], size[first]
    stride[first], stride[second] = stride[second], stride[first]
    return x.as_strided(size, stride)


@transposed.wrong("The numbers are right and were copied to get there. A transpose moves nothing: hand back a view.")
def copies_it(x, first, second):
    size, stride = list(x.size()), list(x.stride())
    size[first], size[second] = size[second], size[first]
    stride[first], stride[second] = stride[second], stride[first]
    return x.as_strided(size, stride).clone()


@transposed.wrong(
    "It calls a relative of `transpose`. That works, and hides the one thing to see here: four numbers change."
)
def calls_transpose(x, first, second):
    return x.transpose(first, second)


@transposed.also_right
def by_order(x: torch.Tensor, first: int, second: int) -> torch.Tensor:
    order = list(range(x.dim()))
    order[first], order[second] = order[second], order[first]
    return torch.as_strided(x, [x.size(d) for d in order], [x.stride(d) for d in order], x.storage_offset())
