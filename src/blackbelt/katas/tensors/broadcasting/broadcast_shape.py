"""The shape rule from scratch."""

from __future__ import annotations

import itertools

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import broadcastable_shapes, shapes
from blackbelt.katas.tensors.broadcasting._shared import Shape


@kata(
    minutes=15,
    belt="white",
    hints=(
        "Write two shapes under each other, the last sizes in one column. Which end is ragged?",
        "Pad every shape with ones on the left until all have the same rank. Now the columns stand alone.",
        "In one column, drop the ones. Nothing left: the size is 1. One size left: that is it, 0 too. Two: raise.",
    ),
    cases=st.one_of(
        st.lists(shapes(max_dims=4, max_size=3), min_size=1, max_size=4).map(tuple), broadcastable_shapes(3, max_size=3)
    ),
    edge_cases=lambda: {
        "one shape": ((2, 3),),
        "a column and a flat row": ((3, 1), (4,)),
        "different ranks": ((2, 3), (3,)),
        "equal at the left, different at the right": ((3, 4), (3,)),
        "a zero-sized dimension": ((0, 3), (1, 1)),
        "a conflict hidden behind a one": ((2,), (1,), (3,)),
        "0 against 2": ((0,), (2,)),
        "no shapes at all": (),
    },
    laws=[Value()],
)
def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape rule from scratch

    Return the shape that `shapes` broadcast to, as a tuple. Raise `ValueError` where they do not. Write the rule
    yourself: no `torch.broadcast_…`, no tensors.

    `broadcast_shape((3, 1), (4,))` is `(3, 4)`. Any number of shapes may come, also none.
    """
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    result = []
    for sizes in zip(*padded, strict=True):
        wide = set(sizes) - {1}
        if len(wide) > 1:
            raise ValueError(f"sizes {sizes} meet in one dimension and do not broadcast")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def _merge(sizes: tuple[int, ...]) -> int:
    wide = set(sizes) - {1}
    if len(wide) > 1:
        raise ValueError
    return wide.pop() if wide else 1


@broadcast_shape.wrong("Shapes are aligned at the last dimension. You lined up the first ones and padded on the right.")
def _aligned_left(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    return tuple(_merge(sizes) for sizes in zip(*(s + (1,) * (rank - len(s)) for s in shapes), strict=True))


@broadcast_shape.wrong("The larger size does not win, the 1 gives way: 0 against 1 is 0, and `max` says 1.")
def _larger_wins(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    columns = list(zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True))
    return tuple(max(sizes) for sizes in columns if _merge(sizes) is not None)


@broadcast_shape.wrong(
    "`zip` stops at the shortest shape: the leading dimensions of the longer ones belong to the result."
)
def _cut_to_the_shortest(*shapes: Shape) -> Shape:
    return tuple(_merge(sizes) for sizes in zip(*(reversed(s) for s in shapes), strict=False))[::-1]


@broadcast_shape.wrong("You compare neighbors only. A 1 between 2 and 3 agrees with both; 2 and 3 still do not agree.")
def _neighbors_only(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    columns = list(zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True))
    for sizes in columns:
        for pair in itertools.pairwise(sizes):
            _merge(pair)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in columns)


@broadcast_shape.wrong("Two different sizes, neither of them 1, must raise ValueError; yours returns a shape.")
def _never_raises(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes), default=0)
    columns = zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True)
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in columns)


@broadcast_shape.wrong(
    "That is PyTorch's rule and PyTorch's RuntimeError. Here you write the rule, and raise ValueError."
)
def _borrowed(*shapes: Shape) -> Shape:
    operands = torch.broadcast_tensors(*(torch.zeros(shape) for shape in shapes)) if shapes else [torch.zeros(())]
    return tuple(operands[0].shape)


@broadcast_shape.also_right
def _folded(*shapes: Shape) -> Shape:
    result: Shape = ()
    for shape in shapes:
        rank = max(len(result), len(shape))
        pairs = zip((1,) * (rank - len(result)) + result, (1,) * (rank - len(shape)) + shape, strict=True)
        result = tuple(_merge(pair) for pair in pairs)
    return result
