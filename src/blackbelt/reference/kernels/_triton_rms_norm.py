"""RMSNorm of rows in Triton, and its backward.

    r = 1 / √(mean x² + eps)        out = x · r · w
    h = grad · w                    grad_x = r · (h − x · r² · mean(h · x))        grad_w = Σ over rows of grad · x · r

The gradient of the weight is a sum over rows: partial sums of groups of rows, added afterwards (``_triton_bias_gelu``
says why). Where a row fits one tile, one kernel does both with one reading; for longer rows, whose sums would not fit
the registers, a second kernel walks down the columns.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from blackbelt.reference.kernels import _triton_rows
from blackbelt.reference.kernels._triton_rows import load, program_rows, store

# Of the backward that does all in one: about 4 for each of 132 multiprocessors. Four tiles are alive in it (gradient,
# input, weight, sums): with 8 elements of each to a thread the registers hold them, with 16 they do not.
PROGRAMS = 512
LONGEST_IN_ONE_BLOCK = 8192


def backward_tile(columns: int) -> dict[str, int] | None:
    """Return the tile of the backward that does all in one, or None where rows are too long. Not measured."""
    if columns > LONGEST_IN_ONE_BLOCK:
        return None
    block = triton.next_power_of_2(max(columns, 1))
    rows = max(1, _triton_rows.SMALLEST_TILE // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": min(32, max(4, rows * block // 256))}


def long_tile() -> dict[str, int]:
    """Return the tile of the backward of the input, for longer rows."""
    return {"ROWS": 1, "BLOCK": _triton_rows.BLOCK_OF_A_LONG_ROW, "num_warps": 8}


@triton.jit
def load_weight(WEIGHT, columns, num_columns):
    return tl.load(WEIGHT + columns, mask=columns < num_columns, other=0.0).to(tl.float32)[None, :]


@triton.jit
def load_rstd(RSTD, rows, num_rows):
    return tl.load(RSTD + rows, mask=rows < num_rows, other=0.0)


@triton.jit
def rms_norm_kernel(
    INPUT, WEIGHT, OUT, RSTD, num_rows, num_columns, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ONE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write ROWS rows, and r of each for the backward: four bytes a row instead of reading it again."""
    rows = program_rows(ROWS)
    if ONE_BLOCK:
        columns = tl.arange(0, BLOCK)
        x = load(INPUT, rows, columns, num_rows, num_columns, 0.0)
        rstd = tl.rsqrt(tl.sum(x * x, 1) / num_columns + eps)
        out = x * rstd[:, None] * load_weight(WEIGHT, columns, num_columns)
        store(OUT, out, rows, columns, num_rows, num_columns)
    else:
        squares = tl.zeros([ROWS], tl.float32)
        for start in range(0, num_columns, BLOCK):
            x = load(INPUT, rows, start + tl.arange(0, BLOCK), num_rows, num_columns, 0.0)
            squares += tl.sum(x * x, 1)
        rstd = tl.rsqrt(squares / num_columns + eps)
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = load(INPUT, rows, columns, num_rows, num_columns, 0.0)
            out = x * rstd[:, None] * load_weight(WEIGHT, columns, num_columns)
            store(OUT, out, rows, columns, num_rows, num_columns)
    tl.store(RSTD + rows, rstd, mask=rows < num_rows)


@triton.jit
def rms_norm_backward_kernel(
    GRAD, INPUT, WEIGHT, RSTD, GRAD_INPUT, PARTIAL, num_rows, num_columns, rows_per_program,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of one tile: write the gradients of a group of rows, and its line of the weight's partial sums."""
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    weight = load_weight(WEIGHT, columns, num_columns)
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, rows_per_program, ROWS):
        rows = program * rows_per_program + start + tl.arange(0, ROWS)
        grad = load(GRAD, rows, columns, num_rows, num_columns, 0.0)
        rstd = load_rstd(RSTD, rows, num_rows)[:, None]
        unit = load(INPUT, rows, columns, num_rows, num_columns, 0.0) * rstd  # x · r: what the weight was applied to
        mean = tl.sum(grad * weight * unit, 1)[:, None] / num_columns
        store(GRAD_INPUT, (grad * weight - unit * mean) * rstd, rows, columns, num_rows, num_columns)
        sums += grad * unit
    tl.store(PARTIAL + program * num_columns + columns, tl.sum(sums, 0), mask=columns < num_columns)


@triton.jit
def long_input_kernel(
    GRAD, INPUT, WEIGHT, RSTD, GRAD_INPUT, num_rows, num_columns,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Long rows: write the gradient of the input alone, reading twice."""
    rows = program_rows(ROWS)
    rstd = load_rstd(RSTD, rows, num_rows)[:, None]
    dot = tl.zeros([ROWS], tl.float32)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        slope = load(GRAD, rows, columns, num_rows, num_columns, 0.0) * load_weight(WEIGHT, columns, num_columns)
        dot += tl.sum(slope * load(INPUT, rows, columns, num_rows, num_columns, 0.0) * rstd, 1)
    mean = dot[:, None] / num_columns
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        slope = load(GRAD, rows, columns, num_rows, num_columns, 0.0) * load_weight(WEIGHT, columns, num_columns)
        unit = load(INPUT, rows, columns, num_rows, num_columns, 0.0) * rstd
        store(GRAD_INPUT, (slope - unit * mean) * rstd, rows, columns, num_rows, num_columns)


@triton.jit
def long_weight_kernel(
    GRAD, INPUT, RSTD, PARTIAL, num_rows, num_columns, rows_per_group,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Long rows: write the partial sums of a group of rows and COLUMNS columns into line ``group`` of PARTIAL."""
    across = tl.cdiv(num_columns, COLUMNS)
    group = (tl.program_id(0) // across).to(tl.int64)
    columns = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, rows_per_group, ROWS):
        rows = group * rows_per_group + start + tl.arange(0, ROWS)
        unit = load(INPUT, rows, columns, num_rows, num_columns, 0.0) * load_rstd(RSTD, rows, num_rows)[:, None]
        sums += load(GRAD, rows, columns, num_rows, num_columns, 0.0) * unit
    tl.store(PARTIAL + group * num_columns + columns, tl.sum(sums, 0), mask=columns < num_columns)
