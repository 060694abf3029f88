"""The public functions: check what was passed, fold leading dimensions into rows, call the operator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackbelt.reference.kernels import _arguments as check
from blackbelt.reference.kernels import _batching  # noqa: F401  (registers the operators' rules)
from blackbelt.reference.kernels import _derivatives as derivatives
from blackbelt.reference.kernels import _operators as operators
from blackbelt.reference.kernels._eager import wide
from blackbelt.reference.kernels._linear_cross_entropy import choose_chunk_rows


def bias_gelu(input: Tensor, bias: Tensor, *, backend: str = "auto") -> Tensor:  # noqa: A002  (PyTorch's name for it)
    """Return ``GELU(input + bias)``, the exact one: x·Φ(x).

    ``input`` (..., C) of any strides, ``bias`` (C,), of one dtype; float32, float64, float16 or bfloat16. The sum is
    made in float32 (float64 for float64) and rounded once. Reads the input once and writes the result once; copies the
    input where it is not contiguous. Saves input and bias for the backward, nothing else. Under autocast the bias is
    cast to the input's dtype, as in a linear layer. No second derivative.

    ``backend`` (of every function here): ``"cpp"`` is C++ for the CPU, built on first use; ``"cuda"`` is CUDA C++,
    likewise; ``"triton"`` runs on a GPU; ``"eager"`` is PyTorch's formula; ``"auto"`` takes the first of these that can
    run where the tensors are. Raises ValueError or TypeError naming the argument that does not fit, and RuntimeError
    where the backend asked for is absent.

    >>> x, bias = torch.randn(3, 4), torch.randn(4)
    >>> torch.testing.assert_close(bias_gelu(x, bias), torch.nn.functional.gelu(x + bias))
    """
    check.check_backend(backend)
    check.check_tensor("input", input)
    check.check_tensor("bias", bias, dims=1, layout="(C,)")
    if _is_autocast(input):
        bias = bias.to(input.dtype)
    check.check_columns("bias", bias, "input", input)
    out: Tensor = derivatives.BiasGelu.apply(_rows(input), bias, backend)
    return out.reshape(input.shape)


def softmax(input: Tensor, *, backend: str = "auto") -> Tensor:  # noqa: A002
    """Return the softmax of ``input`` (..., C) over its last dimension.

    One pass over a row finds its maximum and its sum (online), a second writes the result. A row of −inf only is NaN,
    as in PyTorch. Saves the result for the backward. Under autocast returns float32 on a GPU, and the input's
    dtype on the CPU, as PyTorch's does.
    For dtypes, copies, ``backend`` and errors see :func:`bias_gelu`.

    >>> x = torch.randn(2, 3, 5)
    >>> torch.testing.assert_close(softmax(x), torch.softmax(x, -1))
    """
    check.check_backend(backend)
    check.check_tensor("input", input)
    if _is_autocast(input) and input.is_cuda:
        input = input.to(wide(input))  # noqa: A001
    out: Tensor = derivatives.Softmax.apply(_rows(input), backend)
    return out.reshape(input.shape)


def rms_norm(
    input: Tensor,  # noqa: A002
    weight: Tensor | None = None,
    eps: float | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Return ``input / sqrt(mean(input²) + eps) · weight`` over the last dimension, as ``F.rms_norm``.

    ``input`` (..., C); ``weight`` (C,) of its dtype, or None for ones; ``eps`` None is float32's
    ``finfo.eps`` (float64's for float64): what PyTorch takes for half precision too. Saves input, weight and one number
    per row. Under autocast the weight is cast to the input's dtype. For dtypes, copies,
    ``backend`` and errors see :func:`bias_gelu`.

    >>> x, weight = torch.randn(2, 3, 5), torch.rand(5)
    >>> torch.testing.assert_close(rms_norm(x, weight), torch.nn.functional.rms_norm(x, (5,), weight))
    """
    check.check_backend(backend)
    check.check_tensor("input", input)
    check.check_eps(eps)
    if weight is None:
        weight = input.new_ones(input.size(-1))
    check.check_tensor("weight", weight, dims=1, layout="(C,)")
    if _is_autocast(input):
        weight = weight.to(input.dtype)
    check.check_columns("weight", weight, "input", input)
    if eps is None:
        eps = torch.finfo(wide(input)).eps
    out: Tensor = derivatives.RmsNorm.apply(_rows(input), weight, float(eps), backend)[0]
    return out.reshape(input.shape)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    inplace: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Return the cross-entropy of ``logits`` (..., C) with the classes ``target`` (...), int64.

    ``reduction`` is ``"mean"`` over the targets that are not ``ignore_index`` (NaN where there is none, as in PyTorch),
    ``"sum"`` or ``"none"``. Classes are the last dimension; PyTorch's function wants them second. Saves logits, target
    and one number per row, no softmax: the backward makes it again.

    ``inplace=True`` writes the gradient over the logits in the forward, so that nothing of their size is allocated, in
    the backward neither. The logits are lost: whoever saved them for a backward of their own gets autograd's error
    about a modified tensor, and so does a second backward through this loss; whoever only reads them afterwards reads
    the gradient. Their memory becomes the gradient that is passed on. float16 logits take a gradient that is not yet
    multiplied by a loss scale; small ones underflow. Without grad mode nothing is overwritten. For leaves that require
    grad, and for logits that are not contiguous, it raises.

    Sums are in float32 (float64 for float64); a logit and the log-sum-exp are subtracted in it, so the gradient of
    logits around 1000 is exact to 1000 · 6e-8. Returns the logits' dtype; float32 under autocast, as PyTorch's does,
    without a float32 copy. A target out of range raises IndexError on the CPU and stops the kernel on a GPU (a device
    assertion). For dtypes, copies, ``backend`` and errors see :func:`bias_gelu`.

    >>> logits, target = torch.randn(4, 10), torch.tensor([1, 9, -100, 0])
    >>> torch.testing.assert_close(cross_entropy(logits, target), torch.nn.functional.cross_entropy(logits, target))
    """
    check.check_backend(backend)
    check.check_tensor("logits", logits)
    check.check_loss_options(ignore_index, reduction, ("mean", "sum", "none"))
    check.check_target(target, "logits", logits)
    classes = target.reshape(-1)
    dtype = wide(logits) if _is_autocast(logits) else logits.dtype
    if inplace:
        check.check_overwritable(logits)
    if inplace and logits.requires_grad and torch.is_grad_enabled():
        loss: Tensor = derivatives.CrossEntropyInPlace.apply(_rows(logits), classes, ignore_index, reduction, backend)
    else:
        losses = derivatives.CrossEntropy.apply(_rows(logits), classes, ignore_index, backend)[0]
        loss = operators.reduced(losses, classes, ignore_index, reduction)
    return loss.to(dtype).reshape(target.shape if reduction == "none" else ())


def linear_cross_entropy(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    chunk_rows: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """Return ``F.cross_entropy(F.linear(input, weight, bias), target)`` without ever holding the logits.

    ``input`` (..., D), ``weight`` (C, D), ``target`` (...) int64, ``bias`` (C,) or None; ``reduction`` is ``"mean"`` or
    ``"sum"``. The logits are made ``chunk_rows`` rows at a time (None: so many that they take the bytes of the input,
    and at least 256), and the gradients of what requires one are made with them, in the forward. Extra bytes: one chunk
    of logits, and those gradients; half precision with several chunks accumulates weight's in float32, which is twice
    its bytes. Without grad mode, or where nothing requires a gradient, none is made. The backward scales them in
    place, so a second backward through the same loss raises autograd's error. Under autocast the floating point
    arguments are cast as for ``F.linear``, and the loss is float32. Not for vmap. For dtypes, copies, targets out of
    range, ``backend`` and errors see :func:`cross_entropy`.

    >>> x, weight, target = torch.randn(6, 8), torch.randn(10, 8), torch.randint(10, (6,))
    >>> theirs = torch.nn.functional.cross_entropy(x @ weight.mT, target)
    >>> torch.testing.assert_close(linear_cross_entropy(x, weight, target), theirs)
    """
    check.check_backend(backend)
    check.check_tensor("input", input, layout="(..., D)")
    check.check_tensor("weight", weight, dims=2, layout="(C, D)")
    if bias is not None:
        check.check_tensor("bias", bias, dims=1, layout="(C,)")
    is_autocast = _is_autocast(input)
    if is_autocast:
        input, weight = _cast(input), _cast(weight)  # noqa: A001
        bias = None if bias is None else _cast(bias)
    check.check_linear(input, weight, bias)
    check.check_loss_options(ignore_index, reduction, ("mean", "sum"))
    check.check_target(target, "input", input)
    check.check_chunk_rows(chunk_rows)
    rows = _rows(input)
    if chunk_rows is None:
        chunk_rows = choose_chunk_rows(rows.size(0), rows.size(1), weight.size(0))
    wanted = [t is not None and t.requires_grad and torch.is_grad_enabled() for t in (input, weight, bias)]
    loss: Tensor = derivatives.LinearCrossEntropy.apply(
        rows, weight, bias, target.reshape(-1), ignore_index, reduction == "mean", chunk_rows, wanted, backend
    )[0]
    return loss if is_autocast else loss.to(input.dtype)


def matmul(a: Tensor, b: Tensor, *, backend: str = "auto") -> Tensor:
    """Return the product of the matrices ``a`` (M, K) and ``b`` (K, N), of one dtype and any strides.

    Sums are in float32 (float64 for float64). Runs the last rung of the backend's ladder; the rungs below it are in
    :mod:`.ladder`. Copies what is not contiguous. Saves a and b. Under autocast both are cast, as for
    ``torch.matmul``. The one function here that may be differentiated twice. For ``backend`` and errors see
    :func:`bias_gelu`.

    >>> a, b = torch.randn(3, 4), torch.randn(4, 5)
    >>> torch.testing.assert_close(matmul(a, b), a @ b)
    """
    check.check_backend(backend)
    check.check_tensor("a", a, dims=2, layout="(M, K)")
    check.check_tensor("b", b, dims=2, layout="(K, N)")
    if _is_autocast(a):
        a, b = _cast(a), _cast(b)
    check.check_matches("b", b, "a", a)
    if a.size(1) != b.size(0):
        raise ValueError(
            f"b has {b.size(0)} rows and a {a.size(1)} columns; they must be equal (a {tuple(a.shape)}, b "
            f"{tuple(b.shape)})"
        )
    out: Tensor = derivatives.Matmul.apply(a, b, backend)
    return out


def _rows(tensor: Tensor) -> Tensor:
    """Return (..., C) as (R, C): a view where there is one."""
    return tensor.reshape(math.prod(tensor.shape[:-1]), tensor.size(-1))


def _is_autocast(tensor: Tensor) -> bool:
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def _cast(tensor: Tensor) -> Tensor:
    """Return the tensor as autocast would pass it to a matrix product: float64 stays."""
    if tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(tensor.device.type))
