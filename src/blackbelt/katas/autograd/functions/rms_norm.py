"""A number, an optional input, and nothing computed in vain."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.backward import GradientOfSum, SkipsUnneeded
from blackbelt.dojo.laws.context import NothingOnContext
from blackbelt.dojo.laws.gradients import DoubleBackward
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, tensors
from blackbelt.katas.autograd.functions._shared import function_of, leaf, once

_BUILD_IT = "write the formula yourself"


def _rows_and_weight(rows: int) -> st.SearchStrategy[Any]:
    weight = st.one_of(st.none(), tensors((4,)))
    return st.tuples(tensors((rows, 4)), weight, st.sampled_from((1e-6, 1e-2)))


@kata(
    minutes=30,
    belt="green",
    hints=(
        (
            "Let r = rsqrt(mean(x²) + eps), one number per row, and n = x · r. Every element of `x` moves r as well. "
            "What do you need to save so that backward can compute both again?"
        ),
        (
            "With g = grad_output · weight, the gradient of `x` is r · (g − n · mean(g · n)), the mean over the last "
            "dimension; that of `weight` is the sum of grad_output · n over all others. `backward` returns three "
            "values, whatever was passed."
        ),
        (
            "`save_for_backward` takes None as well, so `weight` may go in as it is. Compute the weight's gradient "
            "only if `ctx.needs_input_grad[1]`; return None for it otherwise, and None for `eps` always."
        ),
    ),
    cases=st.integers(1, 3).flatmap(_rows_and_weight),
    edge_cases=lambda: {
        "no weight": (leaf(3, 4), None, 1e-6),
        "a weight": (leaf(3, 4), leaf(4, seed=1), 1e-6),
        "a frozen weight": (leaf(3, 4), numbers((4,), seed=1), 1e-6),
        "a large eps": (leaf(2, 4), leaf(4, seed=1), 0.5),
        "only the weight learns": (numbers((2, 3, 4)), leaf(4, seed=1), 1e-6),
        "the second derivative": (leaf(2, 3), leaf(3, seed=1), 1e-2),
        "large tensors kept": (leaf(64, 32), leaf(32, seed=1), 1e-6),
        "all tensors kept": (leaf(64, 32), leaf(32, seed=1), 1e-6),
        "who needs what": (leaf(3, 4), leaf(4, seed=1), 1e-6),
    },
    laws=[
        Value(),
        GradientOfSum(),
        SameGradients(),
        DoubleBackward(arguments=(0, 1), on=("the second derivative",)),
        SavesForBackward(at_most=lambda x, *_: 4 * x.numel() // x.shape[-1], on=("large tensors kept",)),
        SavesForBackward(at_most=lambda *_: 0, on=("all tensors kept",)),
        NothingOnContext(on=("all tensors kept",)),
        SkipsUnneeded(argument=1, on=("who needs what",)),
        Forbids({"torch.nn.functional.rms_norm": _BUILD_IT, "torch.rms_norm": _BUILD_IT, "aten::rms_norm": _BUILD_IT}),
    ],
)
def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """A number, an optional input, and nothing computed in vain.

    Return `x / sqrt(mean(x²) + eps) * weight`, the mean over the last dimension, without the weight where it is None.
    Write it as a `torch.autograd.Function` with the three arguments. Save `x` and `weight`, and nothing else. When the
    weight is frozen, do not compute its gradient. The second derivative must be right.

    ```python
    rms_norm(torch.tensor([[3.0, 4.0]]), None, 0.0)  # tensor([[0.8485, 1.1314]])
    ```
    """

    class RMSNorm(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
            normal = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
            return normal if weight is None else normal * weight

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
            x, weight, ctx.eps = inputs
            ctx.save_for_backward(x, weight)

        @staticmethod
        def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
            x, weight = ctx.saved_tensors
            r = torch.rsqrt(x.square().mean(-1, keepdim=True) + ctx.eps)
            normal, grad_x, grad_weight = x * r, None, None
            if ctx.needs_input_grad[0]:
                grad = grad_output if weight is None else grad_output * weight
                grad_x = r * (grad - normal * (grad * normal).mean(-1, keepdim=True))
            if ctx.needs_input_grad[1]:
                grad_weight = (grad_output * normal).sum_to_size(weight.shape)
            return grad_x, grad_weight, None

    return RMSNorm.apply(x, weight, eps)  # type: ignore[no-any-return]


def _norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    normal = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return normal if weight is None else normal * weight


def _forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    ctx.save_for_backward(x, weight)
    ctx.eps = eps
    return _norm(x, weight, eps)


def _parts(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return r, n and the gradient of n."""
    x, weight = ctx.saved_tensors
    r = torch.rsqrt(x.square().mean(-1, keepdim=True) + ctx.eps)
    return r, x * r, grad_output if weight is None else grad_output * weight


def _grad_x(r: torch.Tensor, normal: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return r * (grad - normal * (grad * normal).mean(-1, keepdim=True))


def _careful(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
    r, normal, grad = _parts(ctx, grad_output)
    return _grad_x(r, normal, grad), grad_output * normal if ctx.needs_input_grad[1] else None, None


@rms_norm.wrong(
    "It leaves the recording to autograd, which keeps the normalized rows for the weight's gradient: a tensor as large "
    "as `x`, where `x` itself is enough."
)
def recorded(x, weight, eps):
    return _norm(x, weight, eps)


@rms_norm.wrong(
    "It saves the normalized rows, a tensor as large as `x`, in every layer at once. They follow from `x`; and "
    "because forward is not recorded, the second derivative takes them for constants."
)
def saves_the_normalized_rows(x, weight, eps):
    def forward(ctx, x, weight, eps):
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, x * r)
        ctx.eps = eps
        return _norm(x, weight, eps)

    def backward(ctx, grad_output):
        x, weight, normal = ctx.saved_tensors
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + ctx.eps)
        grad = grad_output if weight is None else grad_output * weight
        return _grad_x(r, normal, grad), grad_output * normal if ctx.needs_input_grad[1] else None, None

    return function_of(forward, backward).apply(x, weight, eps)


@rms_norm.wrong(
    "It saves r, a number per row, as fused kernels do. Forward is not recorded: to the second derivative r is a "
    "constant. Compute it again from `x`."
)
def saves_the_root(x, weight, eps):
    def forward(ctx, x, weight, eps):
        r = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, r)
        return x * r if weight is None else x * r * weight

    def backward(ctx, grad_output):
        x, weight, r = ctx.saved_tensors
        grad = grad_output if weight is None else grad_output * weight
        return _grad_x(r, x * r, grad), grad_output * x * r if ctx.needs_input_grad[1] else None, None

    return function_of(forward, backward).apply(x, weight, eps)


@rms_norm.wrong(
    "It treats r as a constant. Every element of a row moves the row's norm, so the gradient has a second term: "
    "− n · mean(g · n)."
)
def norm_is_no_constant(x, weight, eps):
    def backward(ctx, grad_output):
        r, normal, grad = _parts(ctx, grad_output)
        return r * grad, grad_output * normal if ctx.needs_input_grad[1] else None, None

    return function_of(_forward, backward).apply(x, weight, eps)


@rms_norm.wrong("Its gradient of `x` forgets the weight: what reaches the normalized row is grad_output · weight.")
def forgets_the_weight(x, weight, eps):
    def backward(ctx, grad_output):
        r, normal, _ = _parts(ctx, grad_output)
        return _grad_x(r, normal, grad_output), grad_output * normal if ctx.needs_input_grad[1] else None, None

    return function_of(_forward, backward).apply(x, weight, eps)


@rms_norm.wrong(
    "It leaves out the argument that was None. Backward returns one value for each argument of `forward`, always: here "
    "three."
)
def two_gradients_for_three(x, weight, eps):
    return function_of(_forward, lambda ctx, grad_output: _careful(ctx, grad_output)[:2]).apply(x, weight, eps)


@rms_norm.wrong(
    "It returns a gradient for the weight although None was passed. Autograd refuses: it has nowhere to put it."
)
def gradient_for_none(x, weight, eps):
    def backward(ctx, grad_output):
        r, normal, grad = _parts(ctx, grad_output)
        return _grad_x(r, normal, grad), grad_output * normal, None

    return function_of(_forward, backward).apply(x, weight, eps)


@rms_norm.wrong(
    "It computes the weight's gradient although the weight is frozen. `ctx.needs_input_grad[1]` says whether anybody "
    "wants it."
)
def computes_for_a_frozen_weight(x, weight, eps):
    def backward(ctx, grad_output):
        r, normal, grad = _parts(ctx, grad_output)
        return _grad_x(r, normal, grad), None if ctx.saved_tensors[1] is None else grad_output * normal, None

    return function_of(_forward, backward).apply(x, weight, eps)


@rms_norm.wrong("Its backward is `once_differentiable`. Every operation in it could have been differentiated again.")
def only_once(x, weight, eps):
    return function_of(_forward, once(_careful)).apply(x, weight, eps)


@rms_norm.wrong("It adds `eps` after the root. Then a row of zeros is divided by `eps`, not by its root.")
def eps_after_the_root(x, weight, eps):
    normal = x / (x.square().mean(-1, keepdim=True).sqrt() + eps)
    return normal if weight is None else normal * weight


@rms_norm.also_right
def leaves_the_reduction_to_the_engine(x, weight, eps):
    return function_of(_forward, _careful).apply(x, weight, eps)
