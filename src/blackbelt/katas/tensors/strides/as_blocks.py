"""Blocks of a matrix as a view."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import tensors
from blackbelt.katas.tensors.strides._shared import count


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
        "square blocks": (count(4, 4), 2, 2),
        "flat blocks": (count(4, 6), 2, 3),
        "a transposed matrix": (count(6, 4).t(), 2, 3),
        "rows as blocks": (count(3, 2), 1, 2),
        "one block": (count(2, 3), 2, 3),
        "does not divide": (count(5, 6), 2, 3),
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
