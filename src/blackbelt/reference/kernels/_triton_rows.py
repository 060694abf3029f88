"""What the Triton kernels over rows share: the tile a program works on, and how it is read and written.

A CUDA kernel says what a thread does; a Triton kernel says what a *program* (a block of threads) does with whole tiles,
and the compiler hands the elements to the threads. Here a tile has ROWS × BLOCK elements of a matrix of R rows and C
columns whose rows are adjacent. A row that fits one tile is read once and stays in registers (``ONE_BLOCK``); a longer
one is walked through in blocks, and where its sums are needed before its results, it is read twice.

What is read becomes float32 at once, so every sum is in float32; what is written is rounded once, by ``store``.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

# 16 warps with 32 elements to a thread: with two such tiles alive (a backward) the registers still hold them.
LONGEST_IN_ONE_BLOCK = 16384
# For longer rows: 8 warps with 16 elements to a thread, so that several programs share a multiprocessor, and one
# computes while another waits for memory.
BLOCK_OF_A_LONG_ROW = 4096
# Short rows share a program: a warp for 5 elements would be 27 idle threads.
SMALLEST_TILE = 1024
ELEMENTS_PER_WARP = 512


def row_tile(columns: int) -> dict[str, int]:
    """Return the tile for rows of ``columns`` elements, and its warps. Chosen without a GPU at hand: not measured.

    Powers of two, because Triton's tiles are; what sticks out is masked.
    """
    is_one = columns <= LONGEST_IN_ONE_BLOCK
    block = triton.next_power_of_2(max(columns, 1)) if is_one else BLOCK_OF_A_LONG_ROW
    rows = max(1, SMALLEST_TILE // block)
    return {"ROWS": rows, "BLOCK": block, "ONE_BLOCK": is_one, "num_warps": warps(rows * block)}


def warps(elements: int) -> int:
    """Return the warps for a tile of so many elements: 4 to 16, 16 elements to a thread where that suffices."""
    return min(16, max(4, elements // ELEMENTS_PER_WARP))


@triton.jit
def program_rows(ROWS: tl.constexpr):
    """Return the rows of this program, as int64: rows × columns may exceed what 32 bits count."""
    return tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
def load(pointer, rows, columns, num_rows, num_columns, other):
    """Read a tile as float32; ``other`` where it sticks out of the matrix."""
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    return tl.load(pointer + rows[:, None] * num_columns + columns[None, :], mask=inside, other=other).to(tl.float32)


@triton.jit
def store(pointer, values, rows, columns, num_rows, num_columns):
    """Round a tile to the dtype of the matrix and write what is inside."""
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    place = pointer + rows[:, None] * num_columns + columns[None, :]
    tl.store(place, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def shift_and_total(pointer, rows, num_rows, num_columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return for every row its maximum m and Σ exp(x − m), in one reading pass: the online softmax.

    When a block raises the maximum, the sum so far was taken against the old one and is multiplied by
    exp(old − new). Where a row is −inf alone, 0 is returned for m: −inf − (−inf) would be NaN, and the −inf of the
    *first* blocks must not spoil a row whose numbers come later. Its sum is 0 then, which tells it from all others.

    Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, https://arxiv.org/abs/1805.02867
    """
    maximum = tl.full([ROWS], float("-inf"), tl.float32)
    shift = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, num_columns, BLOCK):
        x = load(pointer, rows, start + tl.arange(0, BLOCK), num_rows, num_columns, float("-inf"))
        higher = tl.maximum(maximum, tl.max(x, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(maximum - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        maximum = higher
    return shift, total
