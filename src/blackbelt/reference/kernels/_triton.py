"""The Triton backend: allocates results, chooses tiles and launches the kernels of ``_triton_<operator>.py``.

Imported only where it runs: triton may be absent. Every function takes contiguous tensors of float32, float16 or
bfloat16 on one GPU (on the CPU under ``TRITON_INTERPRET=1``), already checked; R rows, C columns, sums in float32.
"""

# mypy: disable-error-code="import-untyped, import-not-found"

from __future__ import annotations

import torch
import triton
from torch import Tensor

from blackbelt.reference.kernels import (
    _triton_bias_gelu,
    _triton_cross_entropy,
    _triton_matmul,
    _triton_rms_norm,
    _triton_softmax,
)
from blackbelt.reference.kernels._triton_rows import row_tile

LSE_DTYPE = torch.float64  # of what cross_entropy returns and its backward takes
RUNGS = _triton_matmul.RUNGS  # of the matmul; the last is the exported one

# Triton launches on the current GPU, whichever the tensors are on: every launch is inside of this.
on_device_of = torch.cuda.device_of

# Triton compiles device assertions only into kernels launched with debug. That would also check every addition of
# integers for overflow, which is not wanted.
ASSERTING = {"debug": True, "sanitize_overflow": False}


def bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name)
    """Return GELU(input (R, C) + bias (C,)), the exact one."""
    out = torch.empty_like(input)
    if out.numel():
        rows, columns = input.shape
        tile = _triton_bias_gelu.pointwise_tile(columns)
        grid = (triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(columns, tile["COLUMNS"]),)
        with on_device_of(input):
            _triton_bias_gelu.bias_gelu_kernel[grid](input, bias, out, rows, columns, **tile)
    return out


def bias_gelu_backward(grad: Tensor, input: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return the gradients of input (R, C) and bias (C,). Extra bytes: the partial sums, at most 1 MiB or 4·C."""
    grad_input = torch.empty_like(input)
    if not input.numel():
        return grad_input, torch.zeros_like(bias)
    rows, columns = input.shape
    groups, per_group, tile = _triton_bias_gelu.column_tile(rows, columns)
    partial = torch.empty(groups, columns, dtype=torch.float32, device=input.device)
    grid = (groups * triton.cdiv(columns, tile["COLUMNS"]),)
    with on_device_of(input):
        _triton_bias_gelu.bias_gelu_backward_kernel[grid](
            grad, input, bias, grad_input, partial, rows, columns, per_group, **tile
        )
    return grad_input, partial.sum(0).to(bias.dtype)


def softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Return the softmax of every row of input (R, C)."""
    out = torch.empty_like(input)
    if out.numel():
        rows, columns = input.shape
        tile = row_tile(columns)
        with on_device_of(input):
            _triton_softmax.softmax_kernel[(triton.cdiv(rows, tile["ROWS"]),)](input, out, rows, columns, **tile)
    return out


def softmax_backward(grad: Tensor, out: Tensor) -> Tensor:
    """Return the gradient of the input from that of the result and the result, all (R, C)."""
    grad_input = torch.empty_like(out)
    if out.numel():
        rows, columns = out.shape
        tile = row_tile(columns)
        grid = (triton.cdiv(rows, tile["ROWS"]),)
        with on_device_of(out):
            _triton_softmax.softmax_backward_kernel[grid](grad, out, grad_input, rows, columns, **tile)
    return grad_input


def rms_norm(input: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return input (R, C) normalized and times weight (C,), and 1 / √(mean + eps) of every row in float32 (R,)."""
    rows, columns = input.shape
    out = torch.empty_like(input)
    rstd = torch.full((rows,), torch.nan, dtype=torch.float32, device=input.device)  # the mean of nothing is NaN
    if out.numel():
        tile = row_tile(columns)
        grid = (triton.cdiv(rows, tile["ROWS"]),)
        with on_device_of(input):
            _triton_rms_norm.rms_norm_kernel[grid](input, weight, out, rstd, rows, columns, eps, **tile)
    return out, rstd


def rms_norm_backward(
    grad: Tensor,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input (R, C) and weight (C,). Extra bytes: partial sums, at most 2048·C."""
    grad_input = torch.empty_like(input)
    if not input.numel():
        return grad_input, torch.zeros_like(weight)
    rows, columns = input.shape
    tile = _triton_rms_norm.backward_tile(columns)
    if tile is None:
        return _long_rms_norm_backward(grad, input, weight, rstd)
    per_program = triton.cdiv(triton.cdiv(rows, tile["ROWS"]), _triton_rms_norm.PROGRAMS) * tile["ROWS"]
    groups = triton.cdiv(rows, per_program)
    partial = torch.empty(groups, columns, dtype=torch.float32, device=input.device)
    with on_device_of(input):
        _triton_rms_norm.rms_norm_backward_kernel[(groups,)](
            grad, input, weight, rstd, grad_input, partial, rows, columns, per_program, **tile
        )
    return grad_input, partial.sum(0).to(weight.dtype)


def _long_rms_norm_backward(
    grad: Tensor,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor]:
    grad_input = torch.empty_like(input)
    rows, columns = input.shape
    tile = _triton_rms_norm.long_tile()
    groups, per_group, column_tile = _triton_bias_gelu.column_tile(rows, columns)
    partial = torch.empty(groups, columns, dtype=torch.float32, device=input.device)
    across = triton.cdiv(columns, column_tile["COLUMNS"])
    with on_device_of(input):
        _triton_rms_norm.long_input_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            grad, input, weight, rstd, grad_input, rows, columns, **tile
        )
        _triton_rms_norm.long_weight_kernel[(groups * across,)](
            grad, input, rstd, partial, rows, columns, per_group, **column_tile
        )
    return grad_input, partial.sum(0).to(weight.dtype)


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return loss (R,), float32 and 0 where ignored, and log-sum-exp (R,), float64, of the rows of logits (R, C)."""
    rows, columns = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    lse = torch.empty(rows, dtype=LSE_DTYPE, device=logits.device)
    if rows:  # without columns too: on a GPU it is the kernel that looks at the targets
        tile = row_tile(columns)
        tile.pop("ONE_BLOCK")
        with on_device_of(logits):
            _triton_cross_entropy.cross_entropy_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
                logits, target, losses, lse, rows, columns, ignore_index, **tile, **ASSERTING
            )
    return losses, lse


def cross_entropy_backward(grad: Tensor, logits: Tensor, target: Tensor, lse: Tensor, ignore_index: int) -> Tensor:
    """Return the gradient of logits (R, C), the softmax made again from lse (R,), float64; grad (R,) is float32."""
    grad_logits = torch.empty_like(logits)
    if logits.numel():
        rows, columns = logits.shape
        tile = row_tile(columns)
        tile.pop("ONE_BLOCK")
        grid = (triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(columns, tile["BLOCK"]),)
        with on_device_of(logits):
            _triton_cross_entropy.cross_entropy_backward_kernel[grid](
                grad, logits, target, lse, grad_logits, rows, columns, ignore_index, **tile
            )
    return grad_logits


def cross_entropy_(logits: Tensor, target: Tensor, ignore_index: int, factor: Tensor) -> Tensor:
    """Return the losses (R,) and overwrite logits (R, C) with (softmax − onehot) · factor, factor 0-d in float32."""
    rows, columns = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        tile = row_tile(columns)
        with on_device_of(logits):
            _triton_cross_entropy.cross_entropy_in_place_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
                logits, target, factor, losses, rows, columns, ignore_index, **tile, **ASSERTING
            )
    return losses


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return a (M, K) @ b (K, N) by the rung ``naive`` or ``tiles``; ValueError for any other."""
    _triton_matmul.check_rung(rung)
    shape = (a.size(0), b.size(1))
    if not (a.numel() and b.numel()):
        return torch.zeros(shape, dtype=a.dtype, device=a.device)
    out = torch.empty(shape, dtype=a.dtype, device=a.device)
    with on_device_of(a):
        _triton_matmul.launch(a, b, out, rung)
    return out
