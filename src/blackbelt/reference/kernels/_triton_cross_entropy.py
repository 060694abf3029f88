"""Cross-entropy from logits in Triton: the loss, its gradient made again from the log-sum-exp, and both in place.

    lse = log Σ exp(x)        loss = lse − x[target]        grad_x = (exp(x − lse) − onehot(target)) · grad

No softmax is ever stored: the forward keeps eight bytes a row (float64: a lse of 20 in float32 is off by 1e-6, and
every probability made from it would be). Where ``target`` is ``ignore_index``, loss and gradient
are 0. A target that is neither that nor a class stops the kernel (a device assertion, as in PyTorch).

References: PyTorch's ``nll_loss`` and ``log_softmax`` for the meaning; Liger-Kernel
(Hsu et al. 2024, https://arxiv.org/abs/2410.10989) for the gradient in place of the logits.
"""

# Triton's own conventions: pointers and constants in capitals, no types on arguments, one flat function per kernel.
# ruff: noqa: N803, ANN001, ANN202, PLR0913, PLR0917
# mypy: disable-error-code="import-untyped, import-not-found, no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from blackbelt.reference.kernels._triton_rows import load, program_rows, shift_and_total, store


@triton.jit
def load_target(TARGET, rows, num_rows, num_columns, ignore_index):
    """Return the targets of rows, whether each counts, and whether it is a class and may be used as an index."""
    target = tl.load(TARGET + rows, mask=rows < num_rows, other=0)
    counts = (rows < num_rows) & (target != ignore_index)
    is_class = (target >= 0) & (target < num_columns)
    tl.device_assert(is_class | (counts == 0), "target is no class and not ignore_index")
    return target, counts, counts & is_class


@triton.jit
def loss_of(LOGITS, rows, target, counts, is_class, shift, total, num_columns):
    """Return log(total) − (x[target] − shift): small where the target is likely, and exact there.

    lse − x[target] would be the difference of two numbers that are large where the logits are.
    """
    chosen = tl.load(LOGITS + rows * num_columns + target, mask=is_class, other=0.0).to(tl.float32)
    return tl.where(counts, tl.log(total) - (chosen - shift), 0.0)


@triton.jit
def cross_entropy_kernel(
    LOGITS, TARGET, LOSSES, LSE, num_rows, num_columns, ignore_index,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write loss and log-sum-exp of ROWS rows, reading each once however long it is."""
    rows = program_rows(ROWS)
    target, counts, is_class = load_target(TARGET, rows, num_rows, num_columns, ignore_index)
    shift, total = shift_and_total(LOGITS, rows, num_rows, num_columns, ROWS, BLOCK)
    loss = loss_of(LOGITS, rows, target, counts, is_class, shift, total, num_columns)
    tl.store(LOSSES + rows, loss, mask=rows < num_rows)
    tl.store(LSE + rows, shift.to(tl.float64) + tl.log(total).to(tl.float64), mask=rows < num_rows)


@triton.jit
def cross_entropy_backward_kernel(
    GRAD, LOGITS, TARGET, LSE, GRAD_LOGITS, num_rows, num_columns, ignore_index,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write one tile of the gradient. With the log-sum-exp known no sum is left: a pointwise kernel."""
    across = tl.cdiv(num_columns, BLOCK)
    rows = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) % across * BLOCK + tl.arange(0, BLOCK)
    target, counts, _ = load_target(TARGET, rows, num_rows, num_columns, ignore_index)
    grad = tl.load(GRAD + rows, mask=rows < num_rows, other=0.0)
    lse = tl.load(LSE + rows, mask=rows < num_rows, other=0.0)
    high = lse.to(tl.float32)
    # What float32 could not hold; −inf − (−inf) would be NaN in every column where PyTorch's is NaN anyhow.
    low = (lse - high.to(tl.float64)).to(tl.float32)
    x = load(LOGITS, rows, columns, num_rows, num_columns, float("-inf"))
    slope = tl.exp(x - high[:, None] - low[:, None]) - tl.where(columns[None, :] == target[:, None], 1.0, 0.0)
    slope = tl.where(counts[:, None], slope * grad[:, None], 0.0)
    store(GRAD_LOGITS, slope, rows, columns, num_rows, num_columns)


@triton.jit
def store_gradient(LOGITS, x, shift, total, target, counts, factor, rows, columns, num_rows, num_columns):
    """Overwrite a tile of logits with its gradient."""
    softmax = tl.exp(x - shift[:, None]) / total[:, None]
    slope = softmax - tl.where(columns[None, :] == target[:, None], 1.0, 0.0)
    slope = tl.where(counts[:, None], slope * factor, 0.0)
    store(LOGITS, slope, rows, columns, num_rows, num_columns)


@triton.jit
def cross_entropy_in_place_kernel(
    LOGITS, TARGET, FACTOR, LOSSES, num_rows, num_columns, ignore_index,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, ONE_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the losses of ROWS rows, and over their logits the gradient times FACTOR."""
    rows = program_rows(ROWS)
    target, counts, is_class = load_target(TARGET, rows, num_rows, num_columns, ignore_index)
    factor = tl.load(FACTOR).to(tl.float32)
    if ONE_BLOCK:
        columns = tl.arange(0, BLOCK)
        x = load(LOGITS, rows, columns, num_rows, num_columns, float("-inf"))
        maximum = tl.max(x, 1)
        shift = tl.where(maximum == float("-inf"), 0.0, maximum)
        total = tl.sum(tl.exp(x - shift[:, None]), 1)
        loss = loss_of(LOGITS, rows, target, counts, is_class, shift, total, num_columns)
        tl.debug_barrier()  # every thread has read x[target]: now it may be overwritten, by whichever thread has it
        store_gradient(LOGITS, x, shift, total, target, counts, factor, rows, columns, num_rows, num_columns)
    else:
        shift, total = shift_and_total(LOGITS, rows, num_rows, num_columns, ROWS, BLOCK)
        loss = loss_of(LOGITS, rows, target, counts, is_class, shift, total, num_columns)
        tl.debug_barrier()
        for start in range(0, num_columns, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            x = load(LOGITS, rows, columns, num_rows, num_columns, float("-inf"))
            store_gradient(LOGITS, x, shift, total, target, counts, factor, rows, columns, num_rows, num_columns)
    tl.store(LOSSES + rows, loss, mask=rows < num_rows)
