"""A sum over rows that has the same bits every time."""
# Triton's own conventions: pointers and constants in capitals, no types on a kernel's arguments.
# ruff: noqa: I001, N803, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.interpreted import Interpreted, Loads, must_interpret
from blackbelt.dojo.laws.programs import LoadsWholeSectors, SameInAnyOrder, SharesTheWork
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.kernels import _triton  # noqa: F401  # before triton: it sets the interpreter up
from blackbelt.katas.reference.kernels._shared import Computes

import triton
import triton.language as tl

_FIRST, _MANY, _HALF = "a few rows", "many rows", "many rows in half precision"


def _tall(rows: int, *column: float) -> torch.Tensor:
    """Return a float16 column that holds these numbers, the last of them in the last row, 0 between."""
    tall = torch.zeros(rows, 1, dtype=torch.float16)
    tall[: len(column) - 1, 0] = torch.tensor(column[:-1])
    tall[-1] = column[-1]
    return tall


def _edge_cases() -> dict[str, tuple[Any, ...]]:
    must_interpret()
    return {
        _FIRST: (numbers((4, 8)),),
        "rows that fill no block": (numbers((150, 32)),),
        "columns that fill no block": (numbers((128, 5)),),
        "every other column": (numbers((3, 16))[:, ::2],),
        "a sum that float16 cannot hold": (_tall(3, 2048.0, 1.0, -2048.0),),
        "a partial sum that float16 cannot hold": (_tall(256, 2048.0, 1.0, -2048.0),),
        "bfloat16": (numbers((9, 4), torch.bfloat16),),
        _MANY: (numbers((256, 16)),),
        _HALF: (numbers((128, 16), torch.float16),),
    }


def _sum(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.sum(0)


def _loads(gradient: torch.Tensor) -> int:
    return gradient.numel() + gradient.numel() // 32


def _moved(gradient: torch.Tensor) -> int:
    return gradient.numel() * gradient.element_size() * 3 // 2


def _bytes(gradient: torch.Tensor) -> int:
    """One partial sum for 32 elements, and the sums of all columns twice: in float32 and rounded."""
    return gradient.numel() // 32 * 4 + gradient.size(1) * (4 + gradient.element_size())


@kata(
    minutes=35,
    belt="brown",
    hints=(
        (
            "If one program walks down all rows, the others have nothing to do; if many add to one place, chance "
            "decides the order. Where can a program leave its sum so that no other touches it?"
        ),
        (
            "First kernel: program i sums rows 64·i to 64·i + 63 in float32 and stores the sums in row i of a "
            "float32 buffer. Then a second step adds the rows of that buffer, always in one order, and rounds once."
        ),
        (
            "A tile is `X + rows[:, None] * row_stride + columns[None, :] * column_stride`, with a mask for rows and "
            "columns and `other=0.0`; `tl.sum(tile.to(tl.float32), 0)` goes down the rows. The second step may be the "
            "same kernel, or `partial.sum(0).to(gradient.dtype)`."
        ),
    ),
    cases=st.sampled_from(((1, 3), (130, 2), (3, 70))).map(lambda shape: (numbers(shape),)),
    edge_cases=_edge_cases,
    laws=[
        Interpreted(on=(_FIRST,)),
        Computes(_sum, roundings=16),
        Allocates(at_most=_bytes, on=(_MANY, _HALF)),
        Loads(at_most=_loads, on=(_MANY,)),
        LoadsWholeSectors(at_most=_moved, on=(_MANY,)),
        SharesTheWork(at_most=1024, on=(_MANY,)),
        SameInAnyOrder(on=(_MANY,)),
    ],
)
def bias_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """A sum over rows that has the same bits every time.

    The gradient of a bias is the sum of `gradient` (rows, columns) over its rows. Write it as a Triton kernel, on
    Triton's interpreter, in two steps: each program sums a block of rows into a row of its own in a float32 buffer,
    then the rows of that buffer are added. That second step may be a kernel or an operator of PyTorch.

    ```python
    bias_gradient(torch.ones(1000, 3))  # tensor([1000., 1000., 1000.])
    ```

    The result has the dtype of `gradient`: sum in float32, round once. Its bits must not depend on the order in which
    programs run. Each element is loaded once, neighbors in a row together: what is counted is the sectors of 32 bytes
    that a load touches. A program may load 1024 elements at most, and the buffer may hold one number for 32 elements of
    `gradient`. The columns of `gradient` need not be adjacent.
    """

    @triton.jit
    def kernel(X, OUT, num_rows, num_columns, row_stride, column_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
        place = X + rows[:, None] * row_stride + columns[None, :] * column_stride
        total = tl.sum(tl.load(place, mask=inside, other=0.0).to(tl.float32), 0)
        tl.store(OUT + tl.program_id(0) * num_columns + columns, total, mask=columns < num_columns)

    rows, columns = gradient.shape
    blocks = (triton.cdiv(rows, 64), triton.cdiv(columns, 16))
    partial = gradient.new_empty(blocks[0], columns, dtype=torch.float32)
    kernel[blocks](gradient, partial, rows, columns, *gradient.stride(), ROWS=64, COLUMNS=16)
    return partial.sum(0).to(gradient.dtype)


@triton.jit
def _partial_sums(
    X, OUT, num_rows, num_columns, row_stride, column_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr, MASK_ROWS: tl.constexpr,
    MASK_COLUMNS: tl.constexpr, MASK_STORE: tl.constexpr, HALF: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for step in range(STEPS):
        rows = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (rows[:, None] >= 0) & (columns[None, :] >= 0)
        if MASK_ROWS:
            inside = inside & (rows[:, None] < num_rows)
        if MASK_COLUMNS:
            inside = inside & (columns[None, :] < num_columns)
        tile = tl.load(X + rows[:, None] * row_stride + columns[None, :] * column_stride, mask=inside, other=0.0)
        if HALF:
            total = (total.to(tile.dtype) + tl.sum(tile, 0)).to(tl.float32)
        else:
            total += tl.sum(tile.to(tl.float32), 0)
    kept = columns < num_columns
    if not MASK_STORE:
        kept = columns >= 0
    if ATOMIC:
        tl.atomic_add(OUT + columns, total, mask=kept)
    else:
        tl.store(OUT + tl.program_id(0) * num_columns + columns, total.to(OUT.dtype.element_ty), mask=kept)


def _partial(x, rows=64, columns=16, steps=1, dtype=torch.float32, strides=None, **changed):
    """Return the sums of blocks of ``steps * rows`` rows (a single row of them where they are added with atomics)."""
    options = {"MASK_ROWS": True, "MASK_COLUMNS": True, "MASK_STORE": True, "HALF": False, "ATOMIC": False} | changed
    blocks = (triton.cdiv(x.size(0), rows * steps), triton.cdiv(x.size(1), columns))
    out = x.new_zeros(1 if options["ATOMIC"] else blocks[0], x.size(1), dtype=dtype)
    sizes = {"ROWS": rows, "COLUMNS": columns, "STEPS": steps}
    _partial_sums[blocks](x, out, *x.shape, *(strides or x.stride()), **sizes, **options)
    return out


def _two_steps(x, **changed):
    return _partial(x, **changed).sum(0).to(x.dtype)


@bias_gradient.wrong(
    "It sums in half precision. From 2048 on, float16 has no odd numbers: a 1 that is added there is lost. Take the "
    "tile to float32 before the sum."
)
def sums_in_half(x):
    return _two_steps(x, HALF=True)


@bias_gradient.wrong(
    "Its buffer has the dtype of the gradient, so every partial sum is rounded before it is added. The buffer is "
    "small: make it float32 and round the result alone."
)
def buffer_in_half(x):
    return _two_steps(x, dtype=x.dtype)


@bias_gradient.wrong(
    "It forgets the rows that are not there. The last block is seldom full: below the last row it reads what follows "
    "in memory. Mask `rows < num_rows`, with `other=0.0`."
)
def unmasked_rows(x):
    return _two_steps(x, MASK_ROWS=False)


@bias_gradient.wrong(
    "It forgets the columns that are not there. Right of the last column begins the next row, and below the last row "
    "memory that is not yours. Mask `columns < num_columns`."
)
def unmasked_columns(x):
    return _two_steps(x, MASK_COLUMNS=False)


@bias_gradient.wrong(
    "It masks the load and not the store: the surplus columns of a block are written over the next row of the buffer, "
    "which is another program's, and past its end."
)
def unmasked_store(x):
    return _two_steps(x, MASK_STORE=False)


@bias_gradient.wrong(
    "It goes down one column per program. Neighbors in a column are a whole row apart, so each element costs a sector "
    "of 32 bytes of its own. Let a program take a block of adjacent columns."
)
def one_column_per_program(x):
    return _two_steps(x, columns=1)


@bias_gradient.wrong(
    "A program takes too many rows, if not all of them. The sum is right and each element is read once, but with few "
    "columns there are only a few programs, and most of a GPU is idle. Give each block of rows a program of its own."
)
def walks_all_rows(x):
    return _two_steps(x, steps=triton.cdiv(x.size(0), 64))


@bias_gradient.wrong(
    "Several programs add to the same place. Atomics lose no sum, but who comes first is chance, and so are the last "
    "bits; without atomics sums are lost as well. Give each program a row of its own in a buffer."
)
def adds_with_atomics(x):
    return _two_steps(x, ATOMIC=True)


@bias_gradient.wrong(
    "Its buffer is as large as the gradient, or nearly: a program that sums a row or two has saved nothing. Let a "
    "program sum 32 rows at least."
)
def two_rows_per_program(x):
    return _two_steps(x, rows=2)


@bias_gradient.wrong(
    "It makes a float32 copy of the whole gradient, twice its size. Load half precision and go to float32 in the "
    "kernel, where a tile is in registers."
)
def copies_to_float32(x):
    return _partial(x.float()).sum(0).to(x.dtype)


@bias_gradient.wrong(
    "It takes for granted that columns are adjacent and rows follow one another. `gradient.stride()` says where they "
    "are."
)
def assumes_contiguous(x):
    return _two_steps(x, strides=(x.size(1), 1))


@bias_gradient.wrong("It returns the sums of the blocks. The second step is missing: add the rows of the buffer.")
def returns_the_buffer(x):
    return _partial(x).to(x.dtype)


@bias_gradient.wrong("It returns float32 for every gradient. Sums are in float32, the result has the gradient's dtype.")
def returns_float32(x):
    return _partial(x).sum(0)


@bias_gradient.wrong("It sums with PyTorch's operator alone. Here you write the kernel that is behind it.")
def torch_sums(x):
    return x.sum(0)


@bias_gradient.also_right
def two_kernels(x):
    partial = _partial(x, rows=32, columns=32)
    return _partial(partial, rows=triton.next_power_of_2(len(partial)), dtype=x.dtype)[0]


@bias_gradient.also_right
def several_tiles_per_program(x):
    return _two_steps(x, rows=16, columns=16, steps=3)
