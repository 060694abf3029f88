"""A product of matrices in tiles."""
# Triton's own conventions: pointers and constants in capitals, no types on a kernel's arguments.
# ruff: noqa: I001, N803, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.interpreted import Interpreted, Loads, must_interpret
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.kernels import _triton  # noqa: F401  # before triton: it sets the interpreter up
from blackbelt.katas.reference.kernels._shared import Computes

import triton
import triton.language as tl


_FIRST, _TILES = ("a part of a tile",), ("several tiles of rows", "several tiles of columns")


def _case(m: int, k: int, n: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    return numbers((m, k), dtype), numbers((k, n), dtype, seed=1)


def _edge_cases() -> dict[str, tuple[Any, ...]]:
    must_interpret()
    return {
        "a part of a tile": _case(4, 3, 5),
        "several tiles of rows": _case(18, 1, 2),
        "several tiles of columns": _case(1, 2, 18),
        "several steps along K": _case(2, 40, 2),
        "one step along K": _case(1, 16, 2),
        "a transposed matrix": (numbers((4, 3)).t(), numbers((4, 2), seed=1)),
        "a long sum in half precision": (torch.ones(1, 192).half(), (torch.eye(192, 1) * 2048).clamp(min=0.05).half()),
    }


def _budget(a: torch.Tensor, b: torch.Tensor) -> int:
    """Each element of `a` once for every tile of columns, each element of `b` once for every tile of rows."""
    return a.numel() * -(-b.size(1) // 16) + b.numel() * -(-a.size(0) // 16)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


@kata(
    minutes=40,
    belt="brown",
    hints=(
        (
            "A program that holds a tile of 16 × 16 results uses every element it loads 16 times. Which rows of A and "
            "which columns of B does it need, and how much of them at once?"
        ),
        (
            "Walk along K in steps of 16. Load a 16 × 16 tile of A and one of B, and add their `tl.dot` to an "
            "accumulator in float32. A mask for rows, one for columns and one for K, `other=0.0`."
        ),
        (
            "`rows = tl.program_id(0) * 16 + tl.arange(0, 16)`; the tile of A is at `A + rows[:, None] * a_row + "
            'k[None, :] * a_column` with the strides of A. `accumulator += tl.dot(a, b, input_precision="ieee")`; at '
            "the end `tl.store(…, accumulator, mask=…)`, which rounds to C's dtype."
        ),
    ),
    cases=st.sampled_from(((2, 3, 4), (3, 17, 2), (18, 2, 1))).map(lambda sizes: _case(*sizes)),
    edge_cases=_edge_cases,
    laws=[
        Forbids(dict.fromkeys(("aten::mm", "aten::bmm"), "the kernel multiplies"), on=_FIRST),
        Interpreted(on=_FIRST),
        Computes(_product),
        Loads(at_most=_budget, on=_TILES),
    ],
)
def tiled_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A product of matrices in tiles.

    Multiply `a` (M, K) by `b` (K, N) in a Triton kernel, on Triton's interpreter. The result has the dtype of `a`, the
    sums are in float32, and neither matrix need be contiguous. Write `import triton` and
    `import triton.language as tl` above your function, and the kernel there or inside of it.

    ```python
    tiled_matmul(torch.ones(2, 3), torch.ones(3, 2))  # a (2, 2) tensor of 3.0
    ```

    What is counted is the elements that your kernel loads. Tiles of 16 × 16 results are enough: each element of `a` is
    then loaded once for every 16 columns of the result, and each element of `b` once for every 16 rows. A load or store
    outside of every tensor raises an error here; on a GPU it would not.
    """

    @triton.jit
    def kernel(A, B, C, M, N, K, a_row, a_column, b_row, b_column, TILE: tl.constexpr):
        rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
        columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
        accumulator = tl.zeros([TILE, TILE], tl.float32)
        for start in range(0, K, TILE):
            k = start + tl.arange(0, TILE)
            of_a, of_b = (rows[:, None] < M) & (k[None, :] < K), (k[:, None] < K) & (columns[None, :] < N)
            left = tl.load(A + rows[:, None] * a_row + k[None, :] * a_column, mask=of_a, other=0.0)
            right = tl.load(B + k[:, None] * b_row + columns[None, :] * b_column, mask=of_b, other=0.0)
            accumulator += tl.dot(left, right, input_precision="ieee")
        inside = (rows[:, None] < M) & (columns[None, :] < N)
        tl.store(C + rows[:, None] * N + columns[None, :], accumulator.to(C.dtype.element_ty), mask=inside)

    (m, k), n = a.shape, b.size(1)
    c = a.new_empty(m, n)
    kernel[triton.cdiv(m, 16), triton.cdiv(n, 16)](a, b, c, m, n, k, *a.stride(), *b.stride(), TILE=16)
    return c


@triton.jit
def _tiles(
    A, B, C, M, N, K, a_row, a_column, b_row, b_column,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    MASK_LOADS: tl.constexpr, MASK_K: tl.constexpr, MASK_STORE: tl.constexpr, HALF: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    accumulator = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, K, TILE):
        k = start + tl.arange(0, TILE)
        of_a, of_b = (rows[:, None] < M) & (k[None, :] < K), (k[:, None] < K) & (columns[None, :] < N)
        if not MASK_K:
            of_a, of_b = (rows[:, None] < M) & (k[None, :] >= 0), (k[:, None] >= 0) & (columns[None, :] < N)
        if not MASK_LOADS:
            of_a, of_b = of_a | (k[None, :] >= 0), of_b | (k[:, None] >= 0)
        left = tl.load(A + rows[:, None] * a_row + k[None, :] * a_column, mask=of_a, other=0.0)
        right = tl.load(B + k[:, None] * b_row + columns[None, :] * b_column, mask=of_b, other=0.0)
        product = tl.dot(left, right, input_precision="ieee")
        accumulator = accumulator + product if ADD else product
        if HALF:
            accumulator = accumulator.to(A.dtype.element_ty).to(tl.float32)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    if not MASK_STORE:
        inside = inside | (rows[:, None] >= 0)
    tl.store(C + rows[:, None] * N + columns[None, :], accumulator.to(C.dtype.element_ty), mask=inside)


def _tiled(a, b, rows=16, columns=16, tile=16, strides=None, dtype=None, **changed):
    (m, k), n = a.shape, b.size(1)
    c = a.new_empty(m, n, dtype=dtype)
    options = {"MASK_LOADS": True, "MASK_K": True, "MASK_STORE": True, "HALF": False, "ADD": True} | changed
    grid = (triton.cdiv(m, rows), triton.cdiv(n, columns))
    sizes = {"ROWS": rows, "COLUMNS": columns, "TILE": tile}
    _tiles[grid](a, b, c, m, n, k, *(strides or (*a.stride(), *b.stride())), **sizes, **options)
    return c


@triton.jit
def _one_element(A, B, C, K, N, a_row, a_column, b_row, b_column):
    row, column = tl.program_id(0), tl.program_id(1)
    total = 0.0
    for k in range(K):
        left = tl.load(A + row * a_row + k * a_column).to(tl.float32)
        total += left * tl.load(B + k * b_row + column * b_column).to(tl.float32)
    tl.store(C + row * N + column, total.to(C.dtype.element_ty))


@tiled_matmul.wrong(
    "It computes one element per program: each loads a row of A and a column of B, so A is read N times and B M times. "
    "A tile of results shares what it loads."
)
def one_element_per_program(a, b):
    c = a.new_empty(a.size(0), b.size(1))
    _one_element[c.shape](a, b, c, a.size(1), b.size(1), *a.stride(), *b.stride())
    return c


@tiled_matmul.wrong(
    "It computes one row (or a strip of one) per program. A row of A is shared by the columns, but every program reads "
    "B again: make the tile as high as it is wide."
)
def one_row_per_program(a, b):
    return _tiled(a, b, rows=1)


@tiled_matmul.wrong(
    "It does not mask its loads. At the last tile they go beyond the matrix: into the next row at best, and into "
    "memory that is not yours in the end."
)
def unmasked_loads(a, b):
    return _tiled(a, b, MASK_LOADS=False)


@tiled_matmul.wrong(
    "It masks rows and columns and forgets K. The last tile along K reads on into the next row of A, and below the "
    "last row of B: whatever is there is added to every sum."
)
def unmasked_k(a, b):
    return _tiled(a, b, MASK_K=False)


@tiled_matmul.wrong(
    "It masks the loads and not the store: the tiles at the right and lower edge write their surplus over the rows "
    "below and past the end of C."
)
def unmasked_store(a, b):
    return _tiled(a, b, MASK_STORE=False)


@tiled_matmul.wrong(
    "It sums in half precision. From 2048 on, float16 has no odd numbers: ones that are added there are lost. "
    "Accumulate in float32 and round once, at the store."
)
def sums_in_half(a, b):
    return _tiled(a, b, HALF=True)


@tiled_matmul.wrong(
    "It replaces the accumulator in every step along K, so that C holds the product of the last tiles: add to it."
)
def keeps_the_last_product(a, b):
    return _tiled(a, b, ADD=False)


@tiled_matmul.wrong(
    "It takes for granted that rows follow one another in memory. A transposed matrix has other strides: pass them to "
    "the kernel, `a.stride()`."
)
def assumes_row_major(a, b):
    return _tiled(a, b, strides=(a.size(1), 1, b.size(1), 1))


@tiled_matmul.wrong("It returns the accumulator's dtype. Sums are in float32, and the result has the dtype of `a`.")
def returns_float32(a, b):
    return _tiled(a, b, dtype=torch.float32)


@tiled_matmul.wrong("It calls PyTorch's product. Here you write the kernel that is behind it.")
def torch_multiplies(a, b):
    return a @ b


@tiled_matmul.wrong("It multiplies and sums with PyTorch's operators: nothing launches a kernel of yours.")
def torch_sums(a, b):
    return (a.float()[:, :, None] * b.float()[None]).sum(1).to(a.dtype)


@tiled_matmul.also_right
def larger_tiles(a, b):
    return _tiled(a, b, rows=32, columns=64, tile=8)


@tiled_matmul.also_right
def contiguous_copies(a, b):
    return _tiled(a.contiguous(), b.contiguous(), rows=64, columns=16, tile=32)
