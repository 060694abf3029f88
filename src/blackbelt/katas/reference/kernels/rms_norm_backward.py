"""The backward of RMSNorm by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

from blackbelt.dojo.describe import describe
from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import laid_out, numbers
from blackbelt.dojo.trial import Trial, seeded, to_double

_GIVEN = "the root is given as `rstd`, and the backward needs no second forward"


@dataclass(frozen=True)
class AgreesWithAutograd(Law):
    """Both gradients are what autograd gives for RMSNorm's formula, in float64."""

    why: ClassVar[str] = "A wrong gradient raises nothing; the model only learns something else."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        grad, x, weight, _ = to_double(trial.case.fresh())
        leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
        root = _rstd(leaves[0])
        out = leaves[0] * root[..., None] * leaves[1]
        wanted = torch.autograd.grad((out * grad).sum(), leaves)  # grad_outputs would import seconds of torch.fx
        with seeded():
            got = trial.function(grad, x, weight, root.detach())
        for name, right, given in zip(("input", "weight"), wanted, got):
            if given.shape != right.shape or not torch.allclose(given, right, rtol=1e-9, atol=1e-9 * float(x.numel())):
                raise LawBroken(f"The gradient of the {name} is not autograd's", describe(right), describe(given))


def _rstd(x: torch.Tensor) -> torch.Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide.square().mean(-1) + 1e-12).rsqrt()


def _case(shape: tuple[int, ...], layout: str = "contiguous", factor: float = 1.0) -> tuple[Any, ...]:
    x = factor * laid_out(numbers, shape, layout)
    return numbers(shape, seed=1), x, 1 + numbers(shape[-1:], seed=2), _rstd(x)


def _half(shape: tuple[int, ...], factor: float = 1.0) -> tuple[Any, ...]:
    grad, x, weight, _ = _case(shape, factor=factor)
    x = x.half()
    return (grad / 64).half(), x, weight.half(), _rstd(x)


@kata(
    minutes=30,
    belt="brown",
    hints=(
        (
            "With n = x · rstd, the output is n · weight. Every n of a row depends on every x of that row, through "
            "rstd: the gradient of the input has two terms."
        ),
        (
            "Let g = grad · weight. The first term is g · rstd, as if rstd were a constant; the second subtracts the "
            "part of g that points along n: a longer x leaves the output as it is."
        ),
        (
            "`grad_input = rstd * (g - n * (g * n).mean(-1, keepdim=True))`, and `grad_weight` is `grad * n`, summed "
            "over all dimensions but the last. Go to float32 first and back to the inputs' dtypes last."
        ),
    ),
    cases=st.tuples(
        st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple),
        st.sampled_from(("contiguous", "transposed", "sliced")),
        st.sampled_from((1.0, 1e-3, 100.0)),
    ).map(lambda drawn: _case(*drawn)),
    edge_cases=lambda: {
        "one row": _case((1, 4)),
        "several rows": _case((5, 3)),
        "small inputs": _case((3, 4), factor=0.01),
        "a batch of sequences": _case((2, 3, 4)),
        "a transposed batch": _case((2, 3, 4), "transposed"),
        "half precision": _half((64, 8)),
        "tiny inputs in half precision": _half((3, 8), factor=4e-6),
    },
    laws=[
        AgreesWithAutograd(),
        Value(roundings=8),
        Forbids(
            {
                "aten::rsqrt": _GIVEN,
                "aten::sqrt": _GIVEN,
                "aten::_fused_rms_norm": _GIVEN,
                "aten::rms_norm": _GIVEN,
            }
        ),
    ],
)
def rms_norm_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The backward of RMSNorm by hand.

    The forward was `x * rstd[..., None] * weight`, where `rstd` is 1 over the root of the mean square of each row of
    `x`. Given `grad`, the gradient of that output, return the gradients of `x` (..., columns) and of `weight`
    (columns,), each in the dtype of its tensor.

    ```python
    grad_x, grad_weight = rms_norm_backward(grad, x, weight, rstd)
    ```

    No autograd, and no second forward: `rstd`, of shape (...), is what the forward saved for you, in float32 at least.
    Inputs may be in half precision, where you compute in float32 and round once, and they need not be contiguous.
    """
    root = rstd[..., None]
    normalized = x.to(rstd.dtype) * root
    wide = grad.to(rstd.dtype)
    slope = wide * weight
    grad_x = root * (slope - normalized * (slope * normalized).mean(-1, keepdim=True))
    grad_weight = (wide * normalized).flatten(0, -2).sum(0)
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype)


def _by_parts(grad, x, weight, rstd, of_x: Callable[..., Any], of_weight: Callable[..., Any] | None = None):
    """Return the gradients; `of_x(g, n, root)` and `of_weight(grad, n)` say what differs from the solution."""
    root, wide = rstd[..., None], grad.to(rstd.dtype)
    n = x.to(rstd.dtype) * root
    grad_weight = (wide * n).flatten(0, -2).sum(0) if of_weight is None else of_weight(wide, n)
    return of_x(wide * weight, n, root).to(x.dtype), grad_weight.to(weight.dtype)


def _right_x(g, n, root):
    return root * (g - n * (g * n).mean(-1, keepdim=True))


@rms_norm_backward.wrong(
    "It takes `rstd` for a constant. It was made from `x`: a larger x makes it smaller, and that is the second term."
)
def rstd_is_constant(grad, x, weight, rstd):
    return _by_parts(grad, x, weight, rstd, lambda g, _, root: root * g)


@rms_norm_backward.wrong(
    "It sums over the row where the mean belongs: the mean square divides by the number of columns, and so does its "
    "gradient."
)
def sum_for_mean(grad, x, weight, rstd):
    return _by_parts(grad, x, weight, rstd, lambda g, n, root: root * (g - n * (g * n).sum(-1, keepdim=True)))


@rms_norm_backward.wrong(
    "It subtracts the mean of g as well. That is LayerNorm, which takes the mean off its input; RMSNorm does not."
)
def layer_norm_backward(grad, x, weight, rstd):
    return _by_parts(grad, x, weight, rstd, lambda g, n, root: root * (_right_x(g, n, 1.0) - g.mean(-1, keepdim=True)))


@rms_norm_backward.wrong(
    "It leaves the weight out of the gradient of `x`. The output is n · weight, so what reaches n is grad · weight."
)
def without_the_weight(grad, x, weight, rstd):
    ones = torch.ones_like(weight)
    return _by_parts(grad, x, ones, rstd, _right_x)[0], _by_parts(grad, x, weight, rstd, _right_x)[1]


@rms_norm_backward.wrong("It takes x, where the normalized x · rstd belongs, in the gradient of the weight.")
def weight_from_x(grad, x, weight, rstd):
    return _by_parts(grad, x, weight, rstd, _right_x, lambda wide, _: (wide * x.to(wide.dtype)).flatten(0, -2).sum(0))


@rms_norm_backward.wrong(
    "It leaves a gradient of the weight for every row. One weight was used in all rows: add them up."
)
def a_gradient_for_each_row(grad, x, weight, rstd):
    return _by_parts(grad, x, weight, rstd, _right_x, lambda wide, n: wide * n)


@rms_norm_backward.wrong(
    "It sums the gradient of the weight over the first dimension only. With (batch, length, columns) the length is "
    "left: all dimensions but the last."
)
def first_dimension_only(grad, x, weight, rstd):
    return _by_parts(grad, x, weight, rstd, _right_x, lambda wide, n: (wide * n).sum(0))


@rms_norm_backward.wrong(
    "It takes `.view` for granted. A transposed batch has no rows that follow one another: `reshape` or `flatten`."
)
def views_its_input(grad, x, weight, rstd):
    rows = x.view(-1, x.size(-1))
    grad_x, grad_weight = rms_norm_backward.reference(grad.view(rows.shape), rows, weight, rstd.view(-1))
    return grad_x.view(x.shape), grad_weight


@rms_norm_backward.wrong(
    "It computes in half precision. There `rstd` of a row of tiny numbers is infinite, and products lose what the sum "
    "over the rows would need: go to float32 first, and round once."
)
def computes_in_half(grad, x, weight, rstd):
    root = rstd[..., None].to(x.dtype)
    n, g = x * root, grad * weight
    grad_weight = (grad * n).flatten(0, -2).sum(0)
    return root * (g - n * (g * n).mean(-1, keepdim=True)), grad_weight


@rms_norm_backward.wrong(
    "It returns float32 gradients for half-precision tensors. A gradient has the dtype of its tensor: round at the end."
)
def stays_wide(grad, x, weight, rstd):
    wide = rstd.dtype
    return rms_norm_backward.reference(grad.to(wide), x.to(wide), weight.to(wide), rstd)


@rms_norm_backward.wrong(
    "It runs the forward again and asks autograd. The root was saved so that nobody need make it a second time, and "
    "the formula is what you would write into a kernel."
)
def asks_autograd(grad, x, weight, rstd):
    with torch.enable_grad():
        wide = [tensor.detach().to(rstd.dtype).requires_grad_() for tensor in (x, weight)]
        out = wide[0] * (wide[0].square().mean(-1, keepdim=True) + 1e-12).rsqrt() * wide[1]
    grad_x, grad_weight = torch.autograd.grad(out, wide, grad.to(rstd.dtype))
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype)


@rms_norm_backward.also_right
def with_einsum(grad, x, weight, rstd):
    wide = rstd.dtype
    g, n = grad.to(wide), x.to(wide) * rstd[..., None]
    along = torch.einsum("...c,...c,c->...", g, n, weight.to(wide)) / x.size(-1)
    grad_x = (g * weight - n * along[..., None]) * rstd[..., None]
    return grad_x.to(x.dtype), torch.einsum("...c,...c->c", g, n).to(weight.dtype)
