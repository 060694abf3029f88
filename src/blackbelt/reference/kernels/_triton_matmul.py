"""Matrix multiplication in Triton, on two rungs of the ladder: ``naive`` and ``tiles``.

``naive``: a program makes one element, from a whole row of A and a whole column of B. Nothing is used twice: 2·K values
are read for 2·K operations, and memory is the limit.
``tiles``: a program makes a tile of BLOCK_M × BLOCK_N elements. A value read serves a whole row or column of the tile,
so that bytes per operation fall by the size of the tile.

There are no rungs ``registers`` and ``tensor_cores``: in CUDA they are steps of their own, in Triton they are taken by
the compiler. ``tl.dot`` of two tiles says *what* is multiplied; that operands are staged in shared memory, that
accumulators stay in registers, and that float16 and bfloat16 run on the tensor cores (mma on an A100, wgmma on an
H100), is what it compiles to. float32 is told "ieee": it would otherwise be rounded to TF32 on its way to them.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

RUNGS = ("naive", "tiles")


@triton.jit
def naive_kernel(A, B, OUT, n, k, BLOCK_K: tl.constexpr):
    """Write one element of A (m, k) @ B (k, n)."""
    row, column = (tl.program_id(0) // n).to(tl.int64), tl.program_id(0) % n
    products = tl.zeros([BLOCK_K], tl.float32)
    for start in range(0, k, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        a = tl.load(A + row * k + inner, mask=inner < k, other=0.0).to(tl.float32)
        b = tl.load(B + inner.to(tl.int64) * n + column, mask=inner < k, other=0.0).to(tl.float32)  # n apart
        products += a * b
    tl.store(OUT + row * n + column, tl.sum(products, 0).to(OUT.dtype.element_ty))


@triton.jit
def tile_of_program(m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BAND: tl.constexpr):
    """Return which tile a program makes: down a band of BAND tiles, then one column of tiles to the right.

    Programs that run at the same time have neighboring numbers. Row by row they would share one row of A and read all
    of B; in bands they make a block that is about as high as wide, from the fewest rows and columns: those stay in
    the L2 cache.
    """
    high, wide = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    first = tl.program_id(0) // (BAND * wide) * BAND
    height = tl.minimum(BAND, high - first)  # the last band may be lower
    inside = tl.program_id(0) % (BAND * wide)
    return first + inside % height, inside // height


@triton.jit
def tiles_kernel(
    A, B, OUT, m, n, k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """Write one tile of A (m, k) @ B (k, n), walking along k; products and sums in float32."""
    down, right = tile_of_program(m, n, BLOCK_M, BLOCK_N, BAND)
    rows = down * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = right * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    a_place = A + rows[:, None].to(tl.int64) * k + inner[None, :]
    b_place = B + inner[:, None].to(tl.int64) * n + columns[None, :]
    step = tl.cast(n, tl.int64) * BLOCK_K
    sums = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, k, BLOCK_K):
        # Zeros outside: they add nothing. Masks cost little here, and every size is allowed.
        a = tl.load(a_place, mask=(rows[:, None] < m) & (inner[None, :] < k - start), other=0.0)
        b = tl.load(b_place, mask=(inner[:, None] < k - start) & (columns[None, :] < n), other=0.0)
        sums = tl.dot(a, b, sums, input_precision="ieee")
        a_place += BLOCK_K
        b_place += step
    place = OUT + rows[:, None].to(tl.int64) * n + columns[None, :]
    tl.store(place, sums.to(OUT.dtype.element_ty), mask=(rows[:, None] < m) & (columns[None, :] < n))


def _config(m: int, n: int, k: int, *, stages: int, num_warps: int) -> triton.Config:
    return triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "BAND": 8}, num_stages=stages, num_warps=num_warps)


# Candidates: which is best depends on the sizes and the GPU, so it is measured there, once for every size. All fit the
# shared memory of an A100 (163 KiB a block); none spills a register on sm_80 or sm_90, as ptxas tells without a GPU.
HALF_CONFIGS = (
    _config(128, 256, 64, stages=3, num_warps=8),
    _config(128, 128, 64, stages=4, num_warps=8),
    _config(128, 128, 32, stages=4, num_warps=4),
    _config(64, 128, 64, stages=4, num_warps=4),
    _config(64, 64, 64, stages=4, num_warps=4),
)
FULL_CONFIGS = (
    _config(128, 128, 16, stages=3, num_warps=8),
    _config(128, 64, 16, stages=3, num_warps=8),
    _config(64, 64, 16, stages=3, num_warps=8),
    _config(32, 32, 32, stages=3, num_warps=4),
)
# Where 16 divides n and k, 16 bytes at a time go straight into shared memory (cp.async), several steps ahead. Elsewhere
# rows do not start at such places: every value passes through a register, which leaves fewer for the tile.
HALF_ODD_CONFIGS = (
    _config(128, 128, 32, stages=3, num_warps=8),
    _config(64, 128, 32, stages=3, num_warps=8),
    _config(64, 64, 32, stages=3, num_warps=4),
)
FULL_ODD_CONFIGS = FULL_CONFIGS[1:]
# The interpreter: odd sizes then need several tiles in each direction, and a last one that sticks out.
SMALL = {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_K": 32, "BAND": 2}


def configs(dtype: torch.dtype, n: int, k: int) -> tuple[triton.Config, ...]:
    """Return the candidates for a dtype and the lengths of the rows of A and B."""
    is_aligned = n % 16 == 0 and k % 16 == 0
    if dtype == torch.float32:
        return FULL_CONFIGS if is_aligned else FULL_ODD_CONFIGS
    return HALF_CONFIGS if is_aligned else HALF_ODD_CONFIGS


@functools.cache
def tuned(candidates: tuple[triton.Config, ...], do_bench: Callable[..., Any] | None = None) -> Any:
    """Return the ``tiles`` kernel, which tries its candidates when it meets a size for the first time (seconds).

    ``do_bench`` is how a candidate is timed; None is Triton's own way, which needs a GPU.
    """
    return triton.autotune(list(candidates), key=["m", "n", "k"], do_bench=do_bench)(tiles_kernel)


def check_rung(rung: str) -> None:
    """Raise ValueError where the backend has no such rung."""
    if rung not in RUNGS:
        raise ValueError(
            f"rung is {rung!r}; the Triton backend has 'naive' and 'tiles'. 'registers' and 'tensor_cores' are no "
            f"rungs of their own there: the compiler takes both steps where a kernel says tl.dot, so ask for 'tiles'"
        )


def launch(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, rung: str) -> None:
    """Write a (M, K) @ b (K, N), contiguous and none of them empty, into ``out``."""
    (m, k), n = a.shape, b.size(1)
    if rung == "naive":
        naive_kernel[(m * n,)](a, b, out, n, k, BLOCK_K=128)
        return

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)

    if a.is_cuda:
        tuned(configs(a.dtype, n, k))[grid](a, b, out, m, n, k)
    else:
        tiles_kernel[grid](a, b, out, m, n, k, **SMALL)
