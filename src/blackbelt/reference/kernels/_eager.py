"""Every operator in PyTorch's own functions: the version to read, the one that runs where no compiler is found.

Tensors arrive checked and contiguous: R rows of C columns. Sums and intermediate results are in ``wide`` (float32, or
float64 for float64), and what is returned is rounded once. These lines allocate what a kernel keeps in registers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RUNGS = ("naive", "tiles", "registers", "tensor_cores")  # of matmul


def wide(tensor: Tensor) -> torch.dtype:
    """Return the dtype that sums are made in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def bias_gelu(input: Tensor, bias: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name for it)
    """Return x·Φ(x) of x = input + bias."""
    dtype = wide(input)
    return functional.gelu(input.to(dtype) + bias.to(dtype)).to(input.dtype)


def bias_gelu_backward(grad: Tensor, input: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return grad·(Φ(x) + x·φ(x)), and its sum over the rows for the bias."""
    dtype = wide(input)
    x = input.to(dtype) + bias.to(dtype)
    slope = torch.ops.aten.gelu_backward(grad.to(dtype), x)
    return slope.to(input.dtype), slope.sum(0).to(bias.dtype)


def softmax(input: Tensor) -> Tensor:  # noqa: A002
    """Return exp(x − max) / Σ exp(x − max) of every row. PyTorch's own sums in ``wide`` already."""
    return torch.softmax(input, -1)


def softmax_backward(grad: Tensor, out: Tensor) -> Tensor:
    """Return (grad − Σ grad·out)·out of every row."""
    gradient: Tensor = torch.ops.aten._softmax_backward_data(grad, out, -1, out.dtype)  # noqa: SLF001  (its only name)
    return gradient


def rms_norm(input: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return x·rstd·weight with rstd = 1 / sqrt(mean(x²) + eps), and rstd (R,)."""
    x = input.to(wide(input))
    rstd = (x.square().mean(-1) + eps).rsqrt()
    return (x * rstd[:, None] * weight.to(x.dtype)).to(input.dtype), rstd


def rms_norm_backward(grad: Tensor, input: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return rstd·(g − n·mean(g·n)) with n = x·rstd and g = grad·weight, and Σ grad·n over the rows."""
    dtype = wide(input)
    grad = grad.to(dtype)
    normalized = input.to(dtype) * rstd[:, None]
    slope = grad * weight.to(dtype)
    grad_input = rstd[:, None] * (slope - normalized * (slope * normalized).mean(-1, keepdim=True))
    return grad_input.to(input.dtype), (grad * normalized).sum(0).to(weight.dtype)


def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the losses (R,), 0 where the target is ignored, and the log-sum-exp (R,) in float64."""
    return _losses(*_shifted_sums(logits), target, ignore_index)


def _losses(x: Tensor, largest: Tensor, total: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    # In float32 a log-sum-exp of 10 is rounded by up to 4.8e-7, which would be the relative error of every probability
    # made from it: several times PyTorch's, which saves log-probabilities (near 0 where likely).
    lse = largest.double() + total.log().double()
    ignored = target == ignore_index
    if not x.size(-1):  # no class at all: every row is ignored, or the target was out of range
        return torch.zeros_like(total), lse
    chosen = x.gather(-1, target.masked_fill(ignored, 0)[:, None])[:, 0]
    # log(total) − (chosen − largest), not lse − chosen: two large numbers would leave a small one full of their errors.
    return torch.where(ignored, 0.0, total.log() - (chosen - largest)), lse


def cross_entropy_backward(grad: Tensor, logits: Tensor, target: Tensor, lse: Tensor, ignore_index: int) -> Tensor:
    """Return (softmax − onehot)·grad, with the softmax made again from the log-sum-exp."""
    high = lse.to(wide(logits))
    low = (lse - high).nan_to_num(0.0).to(high.dtype)  # what float32 could not hold
    softmax = (logits.to(high.dtype) - high[:, None]).sub_(low[:, None]).exp_()
    return _less_onehot(softmax, target, grad, ignore_index).to(logits.dtype)


def cross_entropy_(logits: Tensor, target: Tensor, ignore_index: int, factor: Tensor) -> Tensor:
    """Return the losses (R,) and overwrite the logits with (softmax − onehot)·factor, 0 where ignored.

    Goes through few rows at a time, so that it too allocates nothing of the logits' size.
    """
    losses = logits.new_empty(logits.size(0), dtype=wide(logits))
    step = max(1, 2**16 // max(logits.size(-1), 1))
    for start in range(0, logits.size(0), step):
        rows = slice(start, start + step)
        x, largest, total = _shifted_sums(logits[rows])
        losses[rows], _ = _losses(x, largest, total, target[rows], ignore_index)
        softmax = (x - largest[:, None]).exp_().div_(total[:, None])
        logits[rows] = _less_onehot(softmax, target[rows], factor.expand_as(total), ignore_index).to(logits.dtype)
    return losses


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return the product. PyTorch's is past every rung, so all are the same here."""
    assert rung in RUNGS, rung
    return torch.mm(a, b)


def _shifted_sums(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits in ``wide``, the largest of each row, and Σ exp(x − largest)."""
    x = logits.to(wide(logits))
    if not x.size(-1):
        return x, x.new_full((x.size(0),), -torch.inf), x.new_zeros(x.size(0))
    largest = x.amax(-1)
    return x, largest, (x - largest[:, None]).exp_().sum(-1)


def _less_onehot(softmax: Tensor, target: Tensor, grad: Tensor, ignore_index: int) -> Tensor:
    """Overwrite a softmax with (softmax − onehot)·grad, 0 where the target is ignored."""
    ignored = (target == ignore_index)[:, None]
    if softmax.size(-1):
        softmax.scatter_add_(-1, target[:, None].masked_fill(ignored, 0), -torch.ones_like(softmax[:, :1]))
    return softmax.mul_(grad[:, None]).masked_fill_(ignored, 0.0)
