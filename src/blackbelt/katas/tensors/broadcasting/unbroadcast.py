"""The backward of a broadcast."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import broadcastable_shapes, laid_out, numbers, tensors
from blackbelt.katas.tensors.broadcasting._shared import Shape


def _gradient(shape: Shape, original: Shape, layout: str = "contiguous") -> tuple[torch.Tensor, Shape]:
    return laid_out(numbers, shape, layout), original


@st.composite
def _stretched(draw: st.DrawFn) -> tuple[torch.Tensor, Shape]:
    full, original = draw(broadcastable_shapes(2))
    shape = np.broadcast_shapes(full, original)  # torch's own imports sympy for this: seconds
    return draw(tensors(shape)), original


@kata(
    minutes=20,
    belt="yellow",
    hints=(
        "An element that was read k times in forward gets k gradients. What does the chain rule do with them?",
        "There are two kinds of stretched dimensions: those the operand did not have, and those it had with size 1.",
        (
            "Collect both kinds in one list and reduce once with `sum(dims, keepdim=True)`; a reshape drops the "
            "missing ones. An empty list needs care: `sum(dim=[])` adds up everything."
        ),
    ),
    cases=_stretched(),
    edge_cases=lambda: {
        "a missing dimension": _gradient((4, 3), (3,)),
        "a size-1 dimension": _gradient((4, 3), (4, 1)),
        "both": _gradient((2, 4, 3), (4, 1)),
        "nothing was stretched": _gradient((2, 3), (2, 3)),
        "a square": _gradient((3, 3), (3,), "transposed"),
        "down to one number": _gradient((2, 3), ()),
        "a one that stayed a one": _gradient((2, 1, 3), (1, 3)),
        "an empty gradient": _gradient((0, 3), (1, 3)),
    },
    laws=[
        Value(),
        SharesMemory(on=("nothing was stretched",)),
        Calls(each={"aten::sum": 1}),
        Forbids({"torch.Tensor.sum_to_size": "it is the answer under another name"}),
    ],
)
def unbroadcast(gradient: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The backward of a broadcast

    In forward an operand of `shape` was broadcast to `gradient.shape`. Return the gradient of that operand, of shape
    `shape`. Read the gradient once: one reduction, however many dimensions. Where nothing was stretched, copy nothing.

    A bias of shape `(3,)` added to a batch `(4, 3)` gets `gradient.sum(0)`. Not allowed: `sum_to_size`.
    """
    missing = gradient.dim() - len(shape)
    ones = [missing + dim for dim, size in enumerate(shape) if size == 1 and gradient.shape[missing + dim] != 1]
    stretched = [*range(missing), *ones]
    return gradient.sum(stretched, keepdim=True).reshape(shape) if stretched else gradient


@unbroadcast.wrong("Every copy of the element contributes to the loss: gradients add up. A mean divides them away.")
def _averaged(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    missing = gradient.dim() - len(shape)
    stretched = [*range(missing), *(missing + dim for dim, size in enumerate(shape) if size == 1)]
    return gradient.mean(stretched, keepdim=True).reshape(shape) if stretched else gradient


@unbroadcast.wrong("You summed the missing dimensions and forgot those that the operand had with size 1.")
def _missing_only(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    missing = gradient.dim() - len(shape)
    return gradient.sum(list(range(missing))) if missing else gradient


@unbroadcast.wrong(
    "Reshape regroups by order in memory, not by dimension: it sums elements that never belonged together."
)
def _regrouped(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    return gradient if gradient.shape == shape else gradient.reshape(-1, *shape).sum(0)


@unbroadcast.wrong("`sum(dim=[])` does not sum nothing: an empty list of dimensions means all of them.")
def _summed_nothing(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    missing = gradient.dim() - len(shape)
    ones = [missing + dim for dim, size in enumerate(shape) if size == 1 and gradient.shape[missing + dim] != 1]
    return gradient.sum([*range(missing), *ones], keepdim=True).reshape(shape)


@unbroadcast.wrong("Right numbers, read once per dimension: pass all stretched dimensions to a single `sum`.")
def _one_at_a_time(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    while gradient.dim() > len(shape):
        gradient = gradient.sum(0)
    for dim, size in enumerate(shape):
        if size == 1 and gradient.shape[dim] != 1:
            gradient = gradient.sum(dim, keepdim=True)
    return gradient


@unbroadcast.also_right
def _squeezed(gradient: torch.Tensor, shape: Shape) -> torch.Tensor:
    if gradient.shape == shape:
        return gradient
    padded = (1,) * (gradient.dim() - len(shape)) + tuple(shape)
    dims = [dim for dim in range(gradient.dim()) if gradient.shape[dim] != padded[dim]]
    return (gradient.sum(dims, keepdim=True) if dims else gradient).view(shape)
