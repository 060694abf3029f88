"""Softmax of rows in Triton, and its backward.

    out = exp(x − max x) / Σ exp(x − max x)        grad_x = out · (grad − Σ grad · out)

Bytes moved: one reading and one writing where a row fits one tile, one reading more where it does not.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202, PLR0917
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from blackbelt.reference.kernels._triton_rows import load, program_rows, shift_and_total, store


@triton.jit
def softmax_kernel(
    INPUT, OUT, num_rows, num_columns,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ONE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the softmax of ROWS rows. A row of −inf alone gives NaN, as PyTorch's does: 0 / 0."""
    rows = program_rows(ROWS)
    if ONE_BLOCK:
        columns = tl.arange(0, BLOCK)
        x = load(INPUT, rows, columns, num_rows, num_columns, float("-inf"))
        weights = tl.exp(x - tl.max(x, 1)[:, None])
        store(OUT, weights / tl.sum(weights, 1)[:, None], rows, columns, num_rows, num_columns)
    else:
        shift, total = shift_and_total(INPUT, rows, num_rows, num_columns, ROWS, BLOCK)
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = load(INPUT, rows, columns, num_rows, num_columns, float("-inf"))
            store(OUT, tl.exp(x - shift[:, None]) / total[:, None], rows, columns, num_rows, num_columns)


@triton.jit
def softmax_backward_kernel(
    GRAD, OUT, GRAD_INPUT, num_rows, num_columns,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ONE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of ROWS rows from the softmax itself: the input is not needed again."""
    rows = program_rows(ROWS)
    if ONE_BLOCK:
        columns = tl.arange(0, BLOCK)
        grad = load(GRAD, rows, columns, num_rows, num_columns, 0.0)
        out = load(OUT, rows, columns, num_rows, num_columns, 0.0)
        slope = out * (grad - tl.sum(grad * out, 1)[:, None])
        store(GRAD_INPUT, slope, rows, columns, num_rows, num_columns)
    else:
        dot = tl.zeros([ROWS], tl.float32)
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            grad = load(GRAD, rows, columns, num_rows, num_columns, 0.0)
            dot += tl.sum(grad * load(OUT, rows, columns, num_rows, num_columns, 0.0), 1)
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            grad = load(GRAD, rows, columns, num_rows, num_columns, 0.0)
            out = load(OUT, rows, columns, num_rows, num_columns, 0.0)
            store(GRAD_INPUT, out * (grad - dot[:, None]), rows, columns, num_rows, num_columns)
