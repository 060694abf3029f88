"""Katas of lesson 1.2: the view rule, windows, patches, blocks, transposes, overlap, and what a saved slice weighs."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.storage import KeepsAlive, SameSharing
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes, tensors

Shape = tuple[int, ...]


def _count(*shape: int) -> torch.Tensor:
    return torch.arange(float(math.prod(shape))).view(shape)


# --- can_view ---------------------------------------------------------------------------------------------------------


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
        torch.empty_strided(size, stride, device="meta").view(shape)
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


# --- transposed -------------------------------------------------------------------------------------------------------

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
        "a matrix": (_count(2, 3), 0, 1),
        "a square matrix": (_count(3, 3), 0, 1),
        "three dimensions, counted from the end": (_count(2, 3, 4), -1, 0),
        "a slice that starts late": (_count(4, 3)[1:], 0, 1),
        "a transposed matrix": (_count(3, 2).t(), 0, 1),
        "no elements": (torch.empty(0, 3), 0, 1),
        "the same dimension twice": (_count(2, 3), 1, 1),
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


# --- sliding_windows --------------------------------------------------------------------------------------------------


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
        "a vector": (_count(6), 3, 1),
        "two steps at a time": (_count(7), 3, 2),
        "the last window does not fit": (_count(8), 3, 2),
        "rows of a matrix": (_count(2, 5), 2, 1),
        "a transposed matrix": (_count(5, 2).t(), 2, 1),
        "a slice that starts late": (_count(9)[3:], 3, 1),
        "one window": (_count(4), 4, 1),
        "no window fits": (_count(3), 4, 1),
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


# --- im2col -----------------------------------------------------------------------------------------------------------


@kata(
    minutes=20,
    belt="green",
    hints=(
        (
            "It is `sliding_windows` in two directions at once. How many strides does the result have, and which of "
            "them repeat?"
        ),
        (
            "Six dimensions: image, channel, row in the patch, column in the patch, patch row, patch column. Inside a "
            "patch you step as `x` does; from patch to patch, `step` times as far."
        ),
        (
            "`n, c, h, w = x.stride()`; then sizes `(N, C, kernel, kernel, rows, columns)` and strides `(n, c, h, w, "
            "step * h, step * w)`, with `rows = (H - kernel) // step + 1`. Read the strides from `x`: it may be "
            "channels_last."
        ),
    ),
    cases=st.tuples(
        tensors(shapes(4, 4, 3, 5), layouts=("contiguous", "channels_last", "transposed", "sliced", "offset")),
        st.integers(1, 3),
        st.integers(1, 2),
    ),
    edge_cases=lambda: {
        "patches of 2 × 2": (_count(1, 1, 3, 4), 2, 1),
        "patches of 1 × 1": (_count(2, 3, 2, 2), 1, 1),
        "two steps at a time": (_count(1, 2, 5, 7), 3, 2),
        "channels_last": (_count(2, 3, 4, 4).to(memory_format=torch.channels_last), 2, 1),
        "a batch that starts late": (_count(3, 2, 4, 4)[1:], 2, 2),
        "one patch": (_count(2, 1, 3, 3), 3, 1),
    },
    laws=[Value(), SharesMemory()],
)
def im2col(x: torch.Tensor, kernel: int, step: int) -> torch.Tensor:
    """Image patches without copying.

    `x` is a batch of images `(N, C, H, W)` with any strides. Return every `kernel` × `kernel` patch, `step` apart, as a
    view of shape `(N, C, kernel, kernel, rows, columns)`. This is im2col up to its last line: `.reshape(N, C * kernel *
    kernel, rows * columns)` of your view equals `torch.nn.functional.unfold`, and is the only part of it that must
    copy.

    ```python
    im2col(torch.randn(1, 3, 32, 32), 5, 1).shape  # (1, 3, 5, 5, 28, 28): 25 × the size, 0 bytes
    ```
    """
    n, c, h, w = x.stride()
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), (n, c, h, w, step * h, step * w))


@im2col.wrong("`F.unfold` writes every patch out: `kernel²` times the image. Only the strides of the image are needed.")
def calls_unfold(x, kernel, step):
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return torch.nn.functional.unfold(x, kernel, stride=step).view(*x.shape[:2], kernel, kernel, rows, columns)


@im2col.wrong(
    "It steps `step` pixels inside the patch and one between patches. It is the other way round; that is dilation."
)
def dilates(x, kernel, step):
    n, c, h, w = x.stride()
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), (n, c, step * h, step * w, h, w))


@im2col.wrong(
    "It computes strides from the sizes, as if `x` were contiguous. In channels_last the channel has stride 1."
)
def contiguous_patches(x, kernel, step):
    _, c, height, width = x.shape
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    stride = (c * height * width, height * width, width, 1, step * width, step)
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), stride)


@im2col.wrong(
    "The patches are right and their dimensions stand in another order: first the place in the patch, then the patch."
)
def patch_first(x, kernel, step):
    return x.unfold(2, kernel, step).unfold(3, kernel, step)


@im2col.wrong("It starts at the beginning of the storage. A batch cut from a larger one starts later: keep the offset.")
def patches_from_the_beginning(x, kernel, step):
    n, c, h, w = x.stride()
    rows, columns = ((size - kernel) // step + 1 for size in x.shape[2:])
    return x.as_strided((*x.shape[:2], kernel, kernel, rows, columns), (n, c, h, w, step * h, step * w), 0)


@im2col.also_right
def two_unfolds(x: torch.Tensor, kernel: int, step: int) -> torch.Tensor:
    return x.unfold(2, kernel, step).unfold(3, kernel, step).permute(0, 1, 4, 5, 2, 3)


# --- as_blocks --------------------------------------------------------------------------------------------------------


@st.composite
def _matrices_and_blocks(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    height, width, rows, columns = (draw(st.integers(1, 3)) for _ in range(4))
    return draw(tensors((rows * height, columns * width))), height, width


@kata(
    minutes=10,
    belt="yellow",
    hints=(
        "Splitting a dimension in two is always a view, whatever the strides. Merging two is what can fail.",
        (
            "Split both dimensions first. You then have (block row, row in it, block column, column in it). Which "
            "order was asked for?"
        ),
        (
            "`matrix.view(rows, height, columns, width).permute(0, 2, 1, 3)`. The view splits, so it never fails; the "
            "permutation moves two strides. Check that the sizes divide before."
        ),
    ),
    cases=_matrices_and_blocks(),
    edge_cases=lambda: {
        "square blocks": (_count(4, 4), 2, 2),
        "flat blocks": (_count(4, 6), 2, 3),
        "a transposed matrix": (_count(6, 4).t(), 2, 3),
        "rows as blocks": (_count(3, 2), 1, 2),
        "one block": (_count(2, 3), 2, 3),
        "does not divide": (_count(5, 6), 2, 3),
    },
    laws=[Value(), SharesMemory()],
)
def as_blocks(matrix: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Blocks of a matrix as a view.

    Return the `height` × `width` blocks of a matrix of any strides as a view of shape `(rows, columns, height, width)`,
    so that `as_blocks(m, 2, 3)[i, j]` is block `(i, j)`, and writing into it writes into the matrix. Raise `ValueError`
    where the matrix does not divide into whole blocks.

    ```python
    as_blocks(torch.arange(16).view(4, 4), 2, 2)[0, 1]  # [[2, 3], [6, 7]]
    ```
    """
    rows, columns = matrix.shape[0] // height, matrix.shape[1] // width
    if (rows * height, columns * width) != tuple(matrix.shape):
        raise ValueError(
            f"{tuple(matrix.shape)} does not divide into blocks of {height} × {width}; pad or crop it first"
        )
    return matrix.view(rows, height, columns, width).permute(0, 2, 1, 3)


@as_blocks.wrong(
    "It cuts the storage into pieces one after another: those are runs of memory, not squares of the matrix."
)
def cuts_in_order(matrix, height, width):
    if matrix.shape[0] % height or matrix.shape[1] % width:
        raise ValueError("does not divide")
    return matrix.reshape(matrix.shape[0] // height, matrix.shape[1] // width, height, width)


@as_blocks.wrong("The blocks are right and are copies. Whoever writes into a block must write into the matrix.")
def copies_blocks(matrix, height, width):
    if matrix.shape[0] % height or matrix.shape[1] % width:
        raise ValueError("does not divide")
    rows = [torch.stack(band.split(width, dim=1)) for band in matrix.split(height, dim=0)]
    return torch.stack(rows)


@as_blocks.wrong("Each block comes out transposed: check which of the last two dimensions walks along a row.")
def transposes_blocks(matrix, height, width):
    if matrix.shape[0] % height or matrix.shape[1] % width:
        raise ValueError("does not divide")
    rows, columns = matrix.shape[0] // height, matrix.shape[1] // width
    return matrix.view(rows, height, columns, width).permute(0, 2, 3, 1)


@as_blocks.wrong(
    "It drops the rows and columns that do not fill a block. Nobody notices lost data: raise a ValueError."
)
def crops(matrix, height, width):
    return matrix.unfold(0, height, height).unfold(1, width, width)


@as_blocks.wrong(
    "It computes strides from the sizes, as if the matrix were contiguous. Read them from `matrix.stride()`."
)
def contiguous_blocks(matrix, height, width):
    if matrix.shape[0] % height or matrix.shape[1] % width:
        raise ValueError("does not divide")
    columns = matrix.shape[1]
    size = (matrix.shape[0] // height, columns // width, height, width)
    return matrix.as_strided(size, (height * columns, width, columns, 1))


@as_blocks.also_right
def by_strides(matrix: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if matrix.shape[0] % height or matrix.shape[1] % width:
        raise ValueError("does not divide")
    down, across = matrix.stride()
    size = (matrix.shape[0] // height, matrix.shape[1] // width, height, width)
    return matrix.as_strided(size, (height * down, width * across, down, across))


# --- overlaps ---------------------------------------------------------------------------------------------------------


@st.composite
def _two_views(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    base = _count(draw(st.integers(24, 40)))
    views = []
    for _ in range(2):
        size = draw(shapes(0, 2, 0, 3))
        stride = tuple(draw(st.integers(0, 5)) for _ in size)
        views.append(base.as_strided(size, stride, draw(st.integers(0, 3))))
    if draw(st.booleans()):
        views[1] = views[1].clone()
    return views[0], views[1]


def _edge_pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    a = _count(12)
    return {
        "a tensor and itself": (a, a),
        "two halves that share the middle": (a[:8], a[4:]),
        "left and right": (a[:5], a[5:]),
        "even and odd places": (a[::2], a[1::2]),
        "every second and every third place": (a[::2], a[3::3]),
        "two columns of a matrix": (a.view(3, 4)[:, 1], a.view(3, 4)[:, 2]),
        "a row and a column": (a.view(3, 4)[1], a.view(3, 4)[:, 2]),
        "equal numbers elsewhere": (_count(4), _count(4)),
        "nothing, inside the other": (a[6:6], a),
        "one cell, stretched": (a[3:4].expand(5), a[::3]),
        "the same start, sideways": (a.view(3, 4)[:, 0], a.view(3, 4)[0, 1:]),
    }


@kata(
    minutes=20,
    belt="green",
    hints=(
        (
            "Two tensors of different storages never overlap. Two of the same storage may still be apart: think of "
            "`a[::2]` and `a[1::2]`."
        ),
        (
            "Where does element `(i, j)` lie, counted in cells from the start of the storage? Which cells does a "
            "tensor have in all?"
        ),
        (
            "Compare `untyped_storage().data_ptr()`. Then build each tensor's set of cells: start with "
            "`{storage_offset()}` and for every dimension replace it by `{cell + i * stride for …}`. No common cell, "
            "no overlap."
        ),
    ),
    cases=_two_views(),
    edge_cases=_edge_pairs,
    laws=[Value()],
)
def overlaps(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Do two tensors overlap in memory?

    Return whether writing into `a` can change `b`: whether at least one storage cell belongs to both. Both are strided,
    of the same dtype, of any layout, up to some thousand elements. Exactly: `a[::2]` and `a[1::2]` share a storage and
    no cell. Change nothing, not even for a moment.

    ```python
    a = torch.arange(12.)
    overlaps(a[:8], a[4:]), overlaps(a[::2], a[1::2])  # (True, False)
    ```
    """

    def cells(tensor: torch.Tensor) -> set[int]:
        found = {int(tensor.storage_offset())}
        for n, step in zip(tensor.size(), tensor.stride()):
            found = {cell + i * step for cell in found for i in range(n)}
        return found

    same_storage = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return same_storage and not cells(a).isdisjoint(cells(b))


@overlaps.wrong(
    "It compares storages. Two tensors can live in one storage and never meet: the even and the odd places."
)
def same_storage(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@overlaps.wrong("It compares where the tensors start. Two that start apart can meet further on.")
def same_start(a, b):
    return a.data_ptr() == b.data_ptr() and a.numel() > 0 and b.numel() > 0


@overlaps.wrong(
    "It compares the first and the last cell of each. Inside that stretch a strided tensor leaves gaps, and the other "
    "may lie in them."
)
def stretches_meet(a, b):
    def stretch(tensor):
        last = sum((n - 1) * step for n, step in zip(tensor.size(), tensor.stride()))
        return tensor.storage_offset(), tensor.storage_offset() + last

    (a_first, a_last), (b_first, b_last) = stretch(a), stretch(b)
    in_one = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    return in_one and a.numel() > 0 and b.numel() > 0 and a_first <= b_last and b_first <= a_last


@overlaps.wrong(
    "It compares numbers. Equal numbers can lie in different places; whether memory is shared is no question of values."
)
def equal_numbers(a, b):
    return bool(torch.isin(a, b).any())


@overlaps.wrong("It counts both sets of cells from 0. A slice starts at its `storage_offset()`.")
def forgets_offsets(a, b):
    sets = []
    for tensor in (a, b):
        cells = {0}
        for n, step in zip(tensor.size(), tensor.stride()):
            cells = {cell + i * step for cell in cells for i in range(n)}
        sets.append(cells)
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() and bool(sets[0] & sets[1])


@overlaps.wrong(
    "It writes into `a` to see whether `b` changes. A question must not change what it asks about: compute the cells."
)
def writes_to_see(a, b):
    before = b.clone()
    for index in itertools.product(*map(range, a.shape)):
        a[index] = -1.0
    return not torch.equal(b, before)


@overlaps.also_right
def index_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
        return False
    positions = torch.arange(a.untyped_storage().nbytes() // a.element_size())
    cells = [positions.as_strided(t.size(), t.stride(), t.storage_offset()) for t in (a, b)]
    return bool(torch.isin(cells[0], cells[1]).any())


# --- shrink_before_saving ---------------------------------------------------------------------------------------------


def _views_by_storage(state: dict[str, torch.Tensor]) -> dict[int, dict[Any, torch.Tensor]]:
    groups: dict[int, dict[Any, torch.Tensor]] = {}
    for tensor in state.values():
        view = (tensor.storage_offset(), tensor.shape, tensor.stride())
        groups.setdefault(tensor.untyped_storage().data_ptr(), {})[view] = tensor
    return groups


def _small_enough(state: dict[str, torch.Tensor]) -> int:
    total = 0
    for views in _views_by_storage(state).values():
        kept = next(iter(views.values())).untyped_storage().nbytes()
        total += min(kept, sum(tensor.nbytes for tensor in views.values()))
    return total


def _copied(state: dict[str, torch.Tensor]) -> int:
    total = 0
    for views in _views_by_storage(state).values():
        kept = next(iter(views.values())).untyped_storage().nbytes()
        copies = sum(tensor.nbytes for tensor in views.values())
        total += copies if copies < kept else 0
    return total


@st.composite
def _states(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor]]:
    weight, other = _count(6, 4), _count(8)
    views = (
        weight,
        weight[1],
        weight[:, 1],
        weight[2:3].expand(4, 4),
        weight.t(),
        other[:2],
        other[::3],
        other,
        other[:0],
    )
    chosen = draw(st.lists(st.integers(0, len(views) - 1), min_size=1, max_size=4))
    return ({f"entry {i}": views[number] for i, number in enumerate(chosen)},)


def _edge_states() -> dict[str, tuple[dict[str, torch.Tensor]]]:
    weight, big = _count(64, 8), _count(1000)
    return {
        "a tensor that owns its storage": ({"weight": _count(512)},),
        "a slice": ({"row": weight[3]},),
        "a column": ({"column": weight[:, 3]},),
        "tied weights": ({"embedding": weight, "head": weight},),
        "the same slice twice": ({"first": big[:10], "again": big[:10]},),
        "a tensor and a row of it": ({"weight": weight, "row": weight[0]},),
        "two slices of one storage": ({"low": big[:10], "high": big[-10:]},),
        "a stretched row": ({"bias": _count(16).expand(64, 16)},),
        "a transposed matrix": ({"weight": weight.t()},),
        "an empty slice": ({"nothing": big[:0]},),
    }


@kata(
    minutes=25,
    belt="blue",
    hints=(
        (
            "`torch.save` writes every storage once and whole. For a storage that several entries share, what is "
            "smaller: to keep it, or to clone what they use of it?"
        ),
        (
            "Two entries with the same storage, offset, size and stride are the same view. One clone serves both, and "
            "so they stay tied."
        ),
        (
            "Group the entries by `untyped_storage().data_ptr()`. In each group collect the distinct views. If their "
            "`nbytes` add up to less than the storage's, replace each view by one clone; otherwise leave the group as "
            "it is."
        ),
    ),
    cases=_states(),
    edge_cases=_edge_states,
    laws=[
        Value(),
        KeepsAlive(at_most=_small_enough),
        SameSharing(),
        Allocates(at_most=_copied),
    ],
)
def shrink_before_saving(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Shrink a slice before saving it.

    `torch.save` writes whole storages. Return a dictionary of the same entries, equal in value, that saves small: for
    every storage, either leave all entries that use it as they are, or give each distinct view in it a clone of its
    own, whichever keeps fewer bytes (leave them where it is a tie). Entries that are the *same* view, such as tied
    weights, must stay tied. Copy nothing that you need not copy, and change nothing in `state`.

    ```python
    big = torch.zeros(1_000_000)
    shrink_before_saving({"head": big[:10]})["head"].untyped_storage().nbytes()  # 40 instead of 4,000,000
    ```
    """
    groups: dict[int, dict[Any, torch.Tensor]] = {}

    def view_of(tensor: torch.Tensor) -> Any:
        return tensor.storage_offset(), tensor.shape, tensor.stride()

    for tensor in state.values():
        groups.setdefault(tensor.untyped_storage().data_ptr(), {})[view_of(tensor)] = tensor
    for views in groups.values():
        stored = next(iter(views.values())).untyped_storage().nbytes()
        if sum(tensor.nbytes for tensor in views.values()) < stored:
            views.update({view: tensor.clone() for view, tensor in views.items()})
    return {name: groups[tensor.untyped_storage().data_ptr()][view_of(tensor)] for name, tensor in state.items()}


@shrink_before_saving.wrong("It hands back what it got: the slices still carry their whole storage into the file.")
def as_it_came(state):
    return dict(state)


@shrink_before_saving.wrong(
    "It clones every entry. Tied weights come apart (and train apart after loading), and a stretched row is written "
    "out in full."
)
def clones_everything(state):
    return {name: tensor.clone() for name, tensor in state.items()}


@shrink_before_saving.wrong(
    "It calls `contiguous()`, which copies a column but hands a row back as it is: a row is contiguous."
)
def makes_contiguous(state):
    return {name: tensor.contiguous() for name, tensor in state.items()}


@shrink_before_saving.wrong(
    "It calls `deepcopy`, which copies whole storages, like `torch.save` does. Now there are two of them."
)
def deep_copies(state):
    return copy.deepcopy(state)


@shrink_before_saving.wrong(
    "It judges each entry alone. Entries can share a storage: a row costs nothing beside its matrix, and one view "
    "under two names needs one clone."
)
def each_alone(state):
    return {
        name: tensor.clone() if tensor.nbytes < tensor.untyped_storage().nbytes() else tensor
        for name, tensor in state.items()
    }


@shrink_before_saving.wrong(
    "It clones the storage of each entry into a new one of the same length. The gaps are copied along."
)
def clones_storages(state):
    return {
        name: torch.empty(0).set_(
            tensor.untyped_storage().clone(), tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        for name, tensor in state.items()
    }


@shrink_before_saving.also_right
def decide_first(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    small: dict[Any, torch.Tensor] = {}
    used: dict[int, int] = {}
    for tensor in state.values():
        storage = tensor.untyped_storage()
        view = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if view not in small:
            small[view] = tensor
            used[storage.data_ptr()] = used.get(storage.data_ptr(), 0) + tensor.numel() * tensor.element_size()
    for view, tensor in small.items():
        if used[view[0]] < tensor.untyped_storage().nbytes():
            small[view] = tensor.detach().clone()
    return {
        name: small[tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()]
        for name, tensor in state.items()
    }
