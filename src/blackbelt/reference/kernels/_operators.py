"""The kernels as operators of PyTorch's dispatcher, under ``blackbelt::``: schema, device kernels, shape of the result.

Every operator has a kernel for the CPU and one for CUDA; the dispatcher picks by the tensors' device, and ``backend``
says which implementation of that device runs. To the compiler each is one opaque call with a known result, so there is
no graph break. Their derivatives are in :mod:`._derivatives`, their rules under ``vmap`` in :mod:`._batching`.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blackbelt.reference.kernels import _eager
from blackbelt.reference.kernels import _linear_cross_entropy as chunks
from blackbelt.reference.kernels._arguments import check_contiguous, check_targets_in_range
from blackbelt.reference.kernels._backends import backend_module, exported_rung
from blackbelt.reference.kernels._eager import wide

# In what follows: input, grad, out, logits (R, C); bias, weight (C,); target, losses, lse, rstd (R,).


def operator(schema: str, *, mutates: tuple[str, ...] = (), dense: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as operator ``blackbelt::<its name>`` of the CPU and of CUDA.

    It gets its tensors contiguous, unless it changes one of them or says that it takes any strides.
    """

    def register(function: Callable[..., Any]) -> Any:
        def kernel(*arguments: Any) -> Any:
            # Kernels read memory as it lies; under autocast an operator called in here would be cast once more.
            device = next(a.device.type for a in arguments if isinstance(a, Tensor))
            if dense and not mutates:
                arguments = tuple(a.contiguous() if isinstance(a, Tensor) else a for a in arguments)
            if not torch.is_autocast_enabled(device):
                return function(*arguments)
            with torch.autocast(device, enabled=False):
                return function(*arguments)

        name = f"blackbelt::{function.__name__}"
        made = torch.library.custom_op(name, kernel, mutates_args=mutates, device_types="cpu", schema=schema)
        made.register_kernel("cuda")(kernel)
        return made

    return register


@operator("(Tensor input, Tensor bias, str backend) -> Tensor")
def bias_gelu(input: Tensor, bias: Tensor, backend: str) -> Tensor:  # noqa: A002  (PyTorch's name for it)
    """Return GELU(input + bias)."""
    return backend_module(backend, input).bias_gelu(input, bias)  # type: ignore[no-any-return]


@operator("(Tensor grad, Tensor input, Tensor bias, str backend) -> (Tensor, Tensor)")
def bias_gelu_backward(grad: Tensor, input: Tensor, bias: Tensor, backend: str) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return the gradients of input and bias."""
    return backend_module(backend, input).bias_gelu_backward(grad, input, bias)  # type: ignore[no-any-return]


@operator("(Tensor input, str backend) -> Tensor")
def softmax(input: Tensor, backend: str) -> Tensor:  # noqa: A002
    """Return the softmax of every row."""
    return backend_module(backend, input).softmax(input)  # type: ignore[no-any-return]


@operator("(Tensor grad, Tensor out, str backend) -> Tensor")
def softmax_backward(grad: Tensor, out: Tensor, backend: str) -> Tensor:
    """Return the gradient of input."""
    return backend_module(backend, out).softmax_backward(grad, out)  # type: ignore[no-any-return]


@operator("(Tensor input, Tensor weight, float eps, str backend) -> (Tensor, Tensor)")
def rms_norm(input: Tensor, weight: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Return the normalized rows times weight, and 1 / sqrt(mean(x²) + eps) of each."""
    return backend_module(backend, input).rms_norm(input, weight, eps)  # type: ignore[no-any-return]


@operator("(Tensor grad, Tensor input, Tensor weight, Tensor rstd, str backend) -> (Tensor, Tensor)")
def rms_norm_backward(
    grad: Tensor,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    rstd: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weight."""
    return backend_module(backend, input).rms_norm_backward(grad, input, weight, rstd)  # type: ignore[no-any-return]


@operator("(Tensor logits, Tensor target, int ignore_index, str backend) -> (Tensor, Tensor)")
def cross_entropy(logits: Tensor, target: Tensor, ignore_index: int, backend: str) -> tuple[Tensor, Tensor]:
    """Return the losses of every row in ``wide``, and the log-sum-exp in float64."""
    _check_targets(target, logits, ignore_index)
    losses, lse = backend_module(backend, logits).cross_entropy(logits, target, ignore_index)
    return losses, lse.double()


@operator("(Tensor grad, Tensor logits, Tensor target, Tensor lse, int ignore_index, str backend) -> Tensor")
def cross_entropy_backward(
    grad: Tensor, logits: Tensor, target: Tensor, lse: Tensor, ignore_index: int, backend: str
) -> Tensor:
    """Return the gradient of logits, the softmax made again from the log-sum-exp."""
    module = backend_module(backend, logits)
    return module.cross_entropy_backward(grad, logits, target, lse, ignore_index)  # type: ignore[no-any-return]


@operator(
    "(Tensor(a!) logits, Tensor target, int ignore_index, Tensor factor, str backend) -> Tensor", mutates=("logits",)
)
def cross_entropy_(logits: Tensor, target: Tensor, ignore_index: int, factor: Tensor, backend: str) -> Tensor:
    """Return the losses, and overwrite the logits (contiguous) with (softmax − onehot)·factor."""
    _check_targets(target, logits, ignore_index)
    check_contiguous(logits)
    module = backend_module(backend, logits)
    return module.cross_entropy_(logits, target.contiguous(), ignore_index, factor)  # type: ignore[no-any-return]


@operator("(Tensor(a!) tensor, Tensor factor) -> ()", mutates=("tensor",))
def scale_(tensor: Tensor, factor: Tensor) -> None:
    """Multiply in place by one factor, or by one for each row, without a temporary of the tensor's size."""
    if not factor.dim():
        if tensor.is_cuda or factor != 1:  # on a GPU the question would cost a synchronization
            tensor.mul_(factor)
        return
    step = max(1, 2**16 // max(tensor.size(-1), 1))
    for rows, factors in zip(tensor.split(step), factor.split(step)):
        rows.mul_(factors[:, None])  # in ``wide``: PyTorch makes a copy of the rows for that


@operator("(Tensor a, Tensor b, str backend) -> Tensor", dense=False)
def matmul(a: Tensor, b: Tensor, backend: str) -> Tensor:
    """Return a (M, K) @ b (K, N) by the backend's last rung."""
    module = backend_module(backend, a)
    if module is not _eager:  # PyTorch takes any strides, and sums in another order where they are others
        a, b = a.contiguous(), b.contiguous()
    return module.matmul(a, b, exported_rung(module, a))  # type: ignore[no-any-return]


@operator(
    "(Tensor input, Tensor weight, Tensor? bias, Tensor target, int ignore_index, bool mean, int chunk_rows, "
    "bool[3] wanted, str backend) -> (Tensor, Tensor, Tensor, Tensor)"
)
def linear_cross_entropy(  # noqa: PLR0913, PLR0917  (an operator's schema is flat)
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    ignore_index: int,
    mean: bool,
    chunk_rows: int,
    wanted: list[bool],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss in ``wide``, and the gradients of input, weight and bias (empty where not wanted)."""
    _check_targets(target, weight.mT, ignore_index)
    problem = chunks.Problem(input, weight, bias, target, ignore_index, mean)
    return chunks.loss_and_gradients(problem, chunk_rows, wanted, backend_module(backend, input))


def reduced(losses: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
    """Return the losses (R,), their sum, or their mean over the targets that count: NaN where none does."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (target != ignore_index).sum()


def _check_targets(target: Tensor, logits: Tensor, ignore_index: int) -> None:
    if not target.is_cuda:  # on a GPU the kernel asserts: to look from here would be to wait for it
        check_targets_in_range(target, logits.size(-1), ignore_index)


# What the compiler is told: shapes and dtypes, nothing computed.


@bias_gelu.register_fake
def _(input: Tensor, bias: Tensor, backend: str) -> Tensor:  # noqa: A002, ARG001
    return input.new_empty(input.shape)


@bias_gelu_backward.register_fake
def _(grad: Tensor, input: Tensor, bias: Tensor, backend: str) -> tuple[Tensor, Tensor]:  # noqa: A002, ARG001
    return input.new_empty(input.shape), bias.new_empty(bias.shape)


@softmax.register_fake
def _(input: Tensor, backend: str) -> Tensor:  # noqa: A002, ARG001
    return input.new_empty(input.shape)


@softmax_backward.register_fake
def _(grad: Tensor, out: Tensor, backend: str) -> Tensor:  # noqa: ARG001
    return out.new_empty(out.shape)


@rms_norm.register_fake
def _(input: Tensor, weight: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:  # noqa: A002, ARG001
    return input.new_empty(input.shape), input.new_empty(input.shape[:1], dtype=wide(input))


@rms_norm_backward.register_fake
def _(grad: Tensor, input: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:  # noqa: A002, ARG001
    return input.new_empty(input.shape), weight.new_empty(weight.shape)


@cross_entropy.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    rows = logits.shape[:1]
    return logits.new_empty(rows, dtype=wide(logits)), logits.new_empty(rows, dtype=torch.float64)


@cross_entropy_backward.register_fake
def _(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:  # noqa: ARG001
    return logits.new_empty(logits.shape)


@cross_entropy_.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape[:1], dtype=wide(logits))


@scale_.register_fake
def _(tensor: Tensor, factor: Tensor) -> None:
    pass


@matmul.register_fake
def _(a: Tensor, b: Tensor, backend: str) -> Tensor:  # noqa: ARG001
    return a.new_empty(a.size(0), b.size(1))


@linear_cross_entropy.register_fake
def _(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: A002
    wanted = rest[4]
    tensors = zip((input, weight, bias), wanted)
    gradients = [t.new_empty(t.shape if w else (0,)) if t is not None else input.new_empty(0) for t, w in tensors]
    return input.new_empty((), dtype=wide(input)), gradients[0], gradients[1], gradients[2]
