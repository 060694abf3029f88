"""May a tensor be viewed in that shape?."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes

Shape = tuple[int, ...]


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[Shape, Shape, Shape]:
    size = draw(shapes(0, 4, 0, 4))
    order = draw(st.permutations(range(len(size))))
    gaps = draw(st.lists(st.sampled_from((1, 1, 1, 2)), min_size=len(size), max_size=len(size)))
    stride, step = [0] * len(size), 1
    for dim in order:
        step *= gaps[dim]
        stride[dim] = draw(st.integers(0, 9)) if size[dim] == 1 else step
        step *= max(size[dim], 1)
    shape = list(size)
    for _ in range(draw(st.integers(0, 2))):
        if len(shape) > 1:
            dim = draw(st.integers(0, len(shape) - 2))
            shape[dim : dim + 2] = [shape[dim] * shape[dim + 1]]
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return size, tuple(stride), tuple(shape)


@kata(
    minutes=25,
    belt="green",
    hints=(
        (
            "Take the dimensions from the right. When is one step of a dimension the same as walking on past the end "
            "of the one on its right?"
        ),
        (
            "Cut the tensor's dimensions into runs of even steps: dimension `i` joins the run on its right if `size[i] "
            "== 1` or `stride[i] == run_numel * run_stride`. A run's stride is that of its last dimension."
        ),
        (
            "Each run must be filled exactly by some of the new sizes, taken from the right: multiply new sizes while "
            "their product is below the run's number of elements (and swallow ones). If the product steps over it, the "
            "answer is False. Without elements, everything with the same count goes."
        ),
    ),
    cases=_layouts(),
    edge_cases=lambda: {
        "the tensor as it is": ((2, 3), (3, 1), (2, 3)),
        "another number of elements": ((2, 3), (3, 1), (5,)),
        "a transposed matrix, flattened": ((3, 2), (1, 3), (6,)),
        "a transposed matrix, a dimension split": ((4, 3), (1, 4), (2, 2, 3)),
        "every second column": ((4, 3), (6, 2), (12,)),
        "every second row": ((4, 3), (6, 1), (12,)),
        "a size 1 with a stride of its own": ((2, 1, 3), (3, 77, 1), (6,)),
        "no elements": ((0, 3), (1, 5), (3, 0)),
        "expanded and flattened": ((4, 3), (0, 1), (12,)),
        "a single number": ((), (), (1, 1)),
        "channels_last, pixels merged": ((2, 3, 4, 5), (60, 1, 15, 3), (2, 3, 20)),
        "channels_last, channels merged": ((2, 3, 4, 5), (60, 1, 15, 3), (2, 60)),
        "new sizes that cross a run": ((2, 6), (1, 2), (3, 4)),
    },
    laws=[Value(), Calls(at_most=0)],
)
def can_view(size: tuple[int, ...], stride: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """May a tensor be viewed in that shape?

    Return whether a tensor of that `size` and `stride` has a `.view(shape)`, for every layout, exactly as PyTorch
    answers. There is no -1 in `shape`; another number of elements is False. Work on the numbers alone: run no tensor
    operator.

    ```python
    can_view((4, 3), (1, 4), (2, 2, 3))  # True: a transposed matrix, one dimension split
    can_view((4, 3), (1, 4), (12,))      # False
    ```
    """
    if math.prod(size) != math.prod(shape):
        return False
    if 0 in size:
        return True
    runs: list[list[int]] = []  # [number of elements, stride], last run first
    for n, step in zip(reversed(size), reversed(stride)):
        if runs and (n == 1 or step == runs[-1][0] * runs[-1][1]):
            runs[-1][0] *= n
        else:
            runs.append([n, step])
    rest = [n for n in shape if n != 1]
    for numel, _ in runs:
        filled = 1
        while filled < numel:
            filled *= rest.pop()
        if filled != numel:
            return False
    return True


@can_view.wrong(
    "It asks for a contiguous tensor. Contiguous is enough and not needed: only the dimensions that the new shape "
    "merges must be one run of memory."
)
def contiguous_only(size, stride, shape):
    dense = [math.prod(size[i + 1 :]) for i in range(len(size))]
    even = all(n == 1 or step == want for n, step, want in zip(size, stride, dense))
    return math.prod(size) == math.prod(shape) and (even or 0 in size)


@can_view.wrong(
    "It compares the number of elements alone. `reshape` needs no more than that; `view` may not move anything."
)
def count_alone(size, stride, shape):
    return math.prod(size) == math.prod(shape)


@can_view.wrong(
    "It takes the stride of a dimension of size 1 seriously. Nobody ever steps along it, so its stride may be anything "
    "and it joins any run."
)
def size_one_is_no_exception(size, stride, shape):
    if math.prod(size) != math.prod(shape) or 0 in size:
        return math.prod(size) == math.prod(shape)
    return _fills(_pairwise_runs(size, stride), shape)


@can_view.wrong("It forgets tensors without elements. With nothing to reach, every shape without elements is a view.")
def empty_is_no_exception(size, stride, shape):
    if math.prod(size) != math.prod(shape):
        return False
    real = [(n, step) for n, step in zip(size, stride) if n != 1]
    return 0 not in size and _fills(_pairwise_runs([n for n, _ in real], [step for _, step in real]), shape)


@can_view.wrong(
    "It tries it out: the answer is right, and the rule is still PyTorch's secret. Work on the numbers alone."
)
def tries_it(size, stride, shape):
    try:
        torch.empty_strided(size, stride).view(shape)
    except RuntimeError:
        return False
    return True


@can_view.wrong(
    "It counts the runs and the new dimensions. Each new dimension must also lie inside one run: it may not take some "
    "of its elements from one and the rest from the next."
)
def any_merge_is_fine(size, stride, shape):
    if math.prod(size) != math.prod(shape) or 0 in size:
        return math.prod(size) == math.prod(shape)
    real = [(n, step) for n, step in zip(size, stride) if n != 1]
    runs = _pairwise_runs([n for n, _ in real], [step for _, step in real])
    return len(runs) <= max(1, sum(n != 1 for n in shape))


@can_view.also_right
def every_address(size: Shape, stride: Shape, shape: Shape) -> bool:
    addresses = [sum(i * s for i, s in zip(index, stride)) for index in itertools.product(*map(range, size))]
    if len(addresses) != math.prod(shape) or not addresses:
        return len(addresses) == math.prod(shape)
    steps = [addresses[math.prod(shape[d + 1 :])] - addresses[0] if n > 1 else 0 for d, n in enumerate(shape)]
    evenly = (sum(i * s for i, s in zip(index, steps)) for index in itertools.product(*map(range, shape)))
    return [address - addresses[0] for address in addresses] == list(evenly)


def _pairwise_runs(size: Any, stride: Any) -> list[int]:
    runs: list[int] = []
    for i in range(len(size) - 1, -1, -1):
        if runs and stride[i] == size[i + 1] * stride[i + 1]:
            runs[-1] *= size[i]
        else:
            runs.append(size[i])
    return runs


def _fills(runs: list[int], shape: Any) -> bool:
    rest = [n for n in shape if n != 1]
    for numel in runs:
        filled = 1
        while filled < numel and rest:
            filled *= rest.pop()
        if filled != numel:
            return False
    return True
