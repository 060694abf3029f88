"""Sliding windows without copying."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes, tensors
from blackbelt.katas.tensors.strides._shared import count


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        (
            "The windows overlap, so a copy would hold most numbers several times. Which stride leads from one window "
            "to the next?"
        ),
        (
            "The new last two dimensions are (window, place in the window). One step in the window is one step of `x`; "
            "one window further is `step` steps of `x`."
        ),
        (
            "`x.as_strided((*x.shape[:-1], n, width), (*x.stride()[:-1], step * x.stride(-1), x.stride(-1)))` with `n "
            "= (length - width) // step + 1`. Raise ValueError before that where no window fits."
        ),
    ),
    cases=st.tuples(tensors(shapes(1, 3, 3, 6)), st.integers(1, 3), st.integers(1, 3)),
    edge_cases=lambda: {
        "a vector": (count(6), 3, 1),
        "two steps at a time": (count(7), 3, 2),
        "the last window does not fit": (count(8), 3, 2),
        "rows of a matrix": (count(2, 5), 2, 1),
        "a transposed matrix": (count(5, 2).t(), 2, 1),
        "a slice that starts late": (count(9)[3:], 3, 1),
        "one window": (count(4), 4, 1),
        "no window fits": (count(3), 4, 1),
    },
    laws=[Value(), SharesMemory(), Forbids(names={"torch.Tensor.unfold": "build the two strides yourself"})],
)
def sliding_windows(x: torch.Tensor, width: int, step: int) -> torch.Tensor:
    """Sliding windows without copying.

    Return all windows of `width` elements over the last dimension of `x`, `step` apart, as a view of shape
    `(*x.shape[:-1], n, width)`. `x` has any strides. Raise `ValueError` where no window fits. `unfold` is not allowed:
    it is what you are building.

    ```python
    sliding_windows(torch.arange(5), 3, 1)  # [[0, 1, 2], [1, 2, 3], [2, 3, 4]], and no new memory
    ```
    """
    if width > x.shape[-1]:
        raise ValueError(f"a window of {width} does not fit into {x.shape[-1]} elements; pass a smaller width")
    n = (x.shape[-1] - width) // step + 1
    return x.as_strided((*x.shape[:-1], n, width), (*x.stride()[:-1], step * x.stride(-1), x.stride(-1)))


@sliding_windows.wrong(
    "It stacks copies of the slices: most numbers now exist several times. Overlapping windows can share them."
)
def stacks_slices(x, width, step):
    if width > x.shape[-1]:
        raise ValueError("no window fits")
    return torch.stack([x[..., i : i + width] for i in range(0, x.shape[-1] - width + 1, step)], dim=-2)


@sliding_windows.wrong(
    "It takes for granted that neighbors in `x` are neighbors in memory. Step by `x.stride(-1)`, not by 1."
)
def neighbors_in_memory(x, width, step):
    if width > x.shape[-1]:
        raise ValueError("no window fits")
    n = (x.shape[-1] - width) // step + 1
    return x.as_strided((*x.shape[:-1], n, width), (*x.stride()[:-1], step, 1))


@sliding_windows.wrong(
    "It starts at the beginning of the storage. A slice starts later: leave the offset out, or pass it on."
)
def windows_from_the_beginning(x, width, step):
    if width > x.shape[-1]:
        raise ValueError("no window fits")
    n = (x.shape[-1] - width) // step + 1
    return x.as_strided((*x.shape[:-1], n, width), (*x.stride()[:-1], step * x.stride(-1), x.stride(-1)), 0)


@sliding_windows.wrong(
    "It loses the last window. Between the first and the last start there are that many steps, plus one."
)
def one_too_few(x, width, step):
    if width > x.shape[-1]:
        raise ValueError("no window fits")
    n = (x.shape[-1] - width) // step
    return x.as_strided((*x.shape[:-1], n, width), (*x.stride()[:-1], step * x.stride(-1), x.stride(-1)))


@sliding_windows.wrong(
    "It hands back nothing where no window fits. Say so with a ValueError: an empty result fails far away."
)
def silent_where_nothing_fits(x, width, step):
    n = max(0, (x.shape[-1] - width) // step + 1)
    return x.as_strided((*x.shape[:-1], n, width), (*x.stride()[:-1], step * x.stride(-1), x.stride(-1)))


@sliding_windows.also_right
def every_start_then_every_step(x: torch.Tensor, width: int, step: int) -> torch.Tensor:
    if x.size(-1) < width:
        raise ValueError("no window fits")
    starts = x.size(-1) - width + 1
    every = torch.as_strided(x, [*x.shape[:-1], starts, width], [*x.stride(), x.stride(-1)], x.storage_offset())
    return every[..., ::step, :]
