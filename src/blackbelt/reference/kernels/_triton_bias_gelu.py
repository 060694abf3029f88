"""Bias and exact GELU in one pass, and their backward, in Triton.

    u = x + bias        out = u · Φ(u)        grad_x = grad · (Φ(u) + u · φ(u))        grad_bias = Σ over rows of grad_x

Φ is the normal distribution, ½ · (1 + erf(u / √2)), and φ its density. The forward has the shape of every pointwise
kernel: a tile in, a tile out. The backward also needs a sum over *rows*, for which no program sees all of them: each
adds up its own rows and writes one line of partial sums, and the lines are added afterwards. Atomic additions would
need no second step, but would add in another order every time: other last bits in every run.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from blackbelt.reference.kernels._triton_rows import load, store, warps

WIDEST_TILE = 1024
ELEMENTS_OF_A_TILE = 4096
# The backward: half the tile for as many warps, since it holds more; enough programs to fill a GPU of 132
# multiprocessors, and few enough that their partial sums are a small matter.
ELEMENTS_OF_A_COLUMN_TILE = 2048
PROGRAMS = 1024


def pointwise_tile(columns: int) -> dict[str, int]:
    """Return the tile of the forward and its warps: as wide as the matrix up to 1024 columns. Not measured."""
    width = min(WIDEST_TILE, triton.next_power_of_2(columns))
    rows = ELEMENTS_OF_A_TILE // width
    return {"ROWS": rows, "COLUMNS": width, "num_warps": warps(rows * width)}


def column_tile(rows: int, columns: int) -> tuple[int, int, dict[str, int]]:
    """Return how many groups of rows and rows in each a sum over rows is cut into, and the tile. Not measured.

    The cut depends on the shape alone, so the same input gives the same bits on every GPU.
    """
    width = min(256, triton.next_power_of_2(columns))
    height = ELEMENTS_OF_A_COLUMN_TILE // width
    wanted = max(1, PROGRAMS // triton.cdiv(columns, width))
    tiles = triton.cdiv(triton.cdiv(rows, height), wanted)  # of each group
    per_group = tiles * height
    groups = triton.cdiv(rows, per_group)
    return groups, per_group, {"ROWS": height, "COLUMNS": width, "num_warps": 8}


@triton.jit
def normal_distribution(u):
    """Return Φ(u). erf, not tanh: the exact GELU."""
    return 0.5 * (1.0 + tl.erf(u * 0.7071067811865476))  # 1 / √2


@triton.jit
def load_bias(BIAS, columns, num_columns):
    return tl.load(BIAS + columns, mask=columns < num_columns, other=0.0).to(tl.float32)[None, :]


@triton.jit
def bias_gelu_kernel(
    INPUT, BIAS, OUT, num_rows, num_columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write one tile. Neighbors in the grid are neighbors in a row."""
    across = tl.cdiv(num_columns, COLUMNS)
    rows = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    u = load(INPUT, rows, columns, num_rows, num_columns, 0.0) + load_bias(BIAS, columns, num_columns)
    store(OUT, u * normal_distribution(u), rows, columns, num_rows, num_columns)


@triton.jit
def bias_gelu_backward_kernel(
    GRAD, INPUT, BIAS, GRAD_INPUT, PARTIAL, num_rows, num_columns, rows_per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a group of rows and COLUMNS columns, and their sums into line ``group`` of PARTIAL."""
    across = tl.cdiv(num_columns, COLUMNS)
    group = (tl.program_id(0) // across).to(tl.int64)
    columns = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    bias = load_bias(BIAS, columns, num_columns)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)  # of every ROWS-th row; across the tile only at the end
    for start in range(0, rows_per_group, ROWS):
        rows = group * rows_per_group + start + tl.arange(0, ROWS)
        grad = load(GRAD, rows, columns, num_rows, num_columns, 0.0)  # 0 outside, so nothing is added there
        u = load(INPUT, rows, columns, num_rows, num_columns, 0.0) + bias
        density = 0.3989422804014327 * tl.exp(-0.5 * u * u)  # 1 / √(2π)
        slope = grad * (normal_distribution(u) + u * density)
        sums += slope
        store(GRAD_INPUT, slope, rows, columns, num_rows, num_columns)
    tl.store(PARTIAL + group * num_columns + columns, tl.sum(sums, 0), mask=columns < num_columns)
