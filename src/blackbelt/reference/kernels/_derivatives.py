"""The derivatives of the operators: what each saves, and which operator makes the gradient.

Two registrations of the same two functions: with the dispatcher, so that ``torch.ops.blackbelt.…`` can be
differentiated, and as an ``autograd.Function``, the form that ``torch.func`` understands. Every ``forward`` is a
function of its own: Dynamo does not trace an operator that is put there itself. Its parameters have names: with grad
off, Dynamo of PyTorch 2.9 counts them to find out whether the first is to be a context.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from blackbelt.reference.kernels import _operators as operators
from blackbelt.reference.kernels._eager import wide


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001  (passed by name)
    """Save the tensors among the inputs, and remember the rest."""
    ctx.save_for_backward(*(a for a in inputs if isinstance(a, Tensor)))
    ctx.rest = tuple(a for a in inputs if not isinstance(a, Tensor))


def _bias_gelu(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_input, grad_bias = BiasGeluBackward.apply(grad, *ctx.saved_tensors, *ctx.rest)
    return grad_input, grad_bias, None


def _save_softmax(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(output)
    ctx.rest = inputs[1:]


def _softmax(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return SoftmaxBackward.apply(grad, *ctx.saved_tensors, *ctx.rest), None


def _save_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, _, backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])
    ctx.rest = (backend,)


def _rms_norm(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    grad_input, grad_weight = RmsNormBackward.apply(grad, *ctx.saved_tensors, *ctx.rest)
    return grad_input, grad_weight, None, None


def _save_cross_entropy(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, target, *rest = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, target, output[1])
    ctx.rest = tuple(rest)


def _cross_entropy(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    return CrossEntropyBackward.apply(grad, *ctx.saved_tensors, *ctx.rest), None, None, None


def _matmul(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    a, b = ctx.saved_tensors
    grad_a = Matmul.apply(grad, b.mT, *ctx.rest) if ctx.needs_input_grad[0] else None
    grad_b = Matmul.apply(a.mT, grad, *ctx.rest) if ctx.needs_input_grad[1] else None
    return grad_a, grad_b, None


def _save_gradients(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001  (passed by name)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros would be made as gradients of these gradients
    ctx.save_for_backward(*output[1:])


def _linear_cross_entropy(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    made = zip(ctx.saved_tensors, ctx.needs_input_grad)
    return *(ScaledGradient.apply(grad, gradient) if needed else None for gradient, needed in made), *(None,) * 6


def _linear_cross_entropy_apart(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    """As registered with the dispatcher: there the gradients are results that the caller has as well, so they stay."""
    made = zip(ctx.saved_tensors, ctx.needs_input_grad)
    return *(gradient * grad.to(gradient.dtype) if needed else None for gradient, needed in made), *(None,) * 6


class _Refusing(torch.autograd.Function):
    """A derivative's operator, whose own derivative is refused in words."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing: there is no second derivative."""

    @staticmethod
    def backward(_ctx: Any, *_: Any) -> NoReturn:
        """Say so."""
        raise RuntimeError(
            "this kernel of blackbelt.reference.kernels has no second derivative: its backward is a kernel as well and "
            "keeps no graph. Differentiate twice through PyTorch's own function, or drop create_graph=True"
        )


class BiasGeluBackward(_Refusing):
    """blackbelt::bias_gelu_backward."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, bias: Tensor, backend: str) -> Any:
        """Run the operator."""
        return operators.bias_gelu_backward(grad, x, bias, backend)


class SoftmaxBackward(_Refusing):
    """blackbelt::softmax_backward."""

    @staticmethod
    def forward(grad: Tensor, out: Tensor, backend: str) -> Any:
        """Run the operator."""
        return operators.softmax_backward(grad, out, backend)


class RmsNormBackward(_Refusing):
    """blackbelt::rms_norm_backward."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor, backend: str) -> Any:
        """Run the operator."""
        return operators.rms_norm_backward(grad, x, weight, rstd, backend)


class CrossEntropyBackward(_Refusing):
    """blackbelt::cross_entropy_backward."""

    @staticmethod
    def forward(grad: Tensor, logits: Tensor, target: Tensor, lse: Tensor, ignore_index: int, backend: str) -> Any:
        """Run the operator."""
        return operators.cross_entropy_backward(grad, logits, target, lse, ignore_index, backend)


class ScaledGradient(_Refusing):
    """A gradient of a loss, multiplied in place by the gradient of what came after it."""

    generate_vmap_rule = False

    @staticmethod
    def forward(grad: Tensor, gradient: Tensor) -> Tensor:
        """Scale: a second backward through the same graph finds it changed, and autograd says so."""
        operators.scale_(gradient, grad)
        return gradient.detach()


class _Differentiable(torch.autograd.Function):
    """An operator with its derivative, in the form that ``torch.func`` understands as well."""

    generate_vmap_rule = True


class BiasGelu(_Differentiable):
    """blackbelt::bias_gelu. Saves its inputs."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor, backend: str) -> Any:
        """Run the operator."""
        return operators.bias_gelu(x, bias, backend)

    setup_context = staticmethod(_save_inputs)
    backward = staticmethod(_bias_gelu)


class Softmax(_Differentiable):
    """blackbelt::softmax. Saves its result."""

    @staticmethod
    def forward(x: Tensor, backend: str) -> Any:
        """Run the operator."""
        return operators.softmax(x, backend)

    setup_context = staticmethod(_save_softmax)
    backward = staticmethod(_softmax)


class RmsNorm(_Differentiable):
    """blackbelt::rms_norm. Saves its inputs and one number per row."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float, backend: str) -> Any:
        """Run the operator."""
        return operators.rms_norm(x, weight, eps, backend)

    setup_context = staticmethod(_save_rms_norm)
    backward = staticmethod(_rms_norm)


class CrossEntropy(_Differentiable):
    """blackbelt::cross_entropy. Saves its inputs and one number per row, no softmax."""

    @staticmethod
    def forward(logits: Tensor, target: Tensor, ignore_index: int, backend: str) -> Any:
        """Run the operator."""
        return operators.cross_entropy(logits, target, ignore_index, backend)

    setup_context = staticmethod(_save_cross_entropy)
    backward = staticmethod(_cross_entropy)


class Matmul(_Differentiable):
    """blackbelt::matmul. Its derivative is itself, twice, so this one may be differentiated as often as you like."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, backend: str) -> Any:
        """Run the operator."""
        return operators.matmul(a, b, backend)

    setup_context = staticmethod(_save_inputs)
    backward = staticmethod(_matmul)


class LinearCrossEntropy(_Differentiable):
    """blackbelt::linear_cross_entropy. Saves the gradients, which it has made already."""

    generate_vmap_rule = False

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  (flat, as the operator)
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        ignore_index: int,
        mean: bool,
        chunk_rows: int,
        wanted: list[bool],
        backend: str,
    ) -> Any:
        """Run the operator."""
        return operators.linear_cross_entropy(x, weight, bias, target, ignore_index, mean, chunk_rows, wanted, backend)

    setup_context = staticmethod(_save_gradients)
    backward = staticmethod(_linear_cross_entropy)


class CrossEntropyInPlace(torch.autograd.Function):
    """blackbelt::cross_entropy_. The gradient lies where the logits were; the backward only scales it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, ignore_index: int, reduction: str, backend: str) -> Tensor:
        """Overwrite the logits (R, C), which bumps their version: who saved them before gets autograd's error."""
        factor = torch.ones((), dtype=wide(logits), device=logits.device)
        if reduction == "mean":
            factor = factor / (target != ignore_index).sum()
        losses = operators.cross_entropy_(logits, target, ignore_index, factor, backend)
        # Saved after the change, so that any other from here on is an error in the backward; and detached, because how
        # the logits came about (as a view of something, say) is of no concern to their memory.
        ctx.save_for_backward(logits.detach())
        return operators.reduced(losses, target, ignore_index, reduction)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Scale in place, which bumps the version once more: a second backward gets autograd's error."""
        (gradient,) = ctx.saved_tensors
        return ScaledGradient.apply(grad, gradient), None, None, None, None


_PAIRS: tuple[tuple[Any, Any], ...] = (
    (operators.bias_gelu, BiasGelu),
    (operators.softmax, Softmax),
    (operators.rms_norm, RmsNorm),
    (operators.cross_entropy, CrossEntropy),
    (operators.matmul, Matmul),
    (operators.linear_cross_entropy, LinearCrossEntropy),
    (operators.bias_gelu_backward, BiasGeluBackward),
    (operators.softmax_backward, SoftmaxBackward),
    (operators.rms_norm_backward, RmsNormBackward),
    (operators.cross_entropy_backward, CrossEntropyBackward),
)
for _operator, _function in _PAIRS:
    _backward = _linear_cross_entropy_apart if _function is LinearCrossEntropy else _function.backward
    _operator.register_autograd(_backward, setup_context=_function.setup_context)
