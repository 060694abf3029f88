"""An activation in place, with the right backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.in_place import InPlaceGradient, InPlaceSaves, MovesVersion
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, tensors


@kata(
    minutes=25,
    belt="green",
    hints=(
        "After the write the input is gone. What does its gradient need, and can you still read that from the output?",
        (
            "Write a `torch.autograd.Function`. In `forward`, change `x`, tell autograd with `ctx.mark_dirty(x)`, and "
            "save the output: it has the input's memory and costs nothing."
        ),
        (
            "For a slope of at least 0, `y > 0` exactly where `x > 0`. So backward is "
            "`torch.where(y > 0, grad, slope * grad)`. For a negative slope the sign is lost: raise ValueError."
        ),
    ),
    cases=st.tuples(
        tensors((3, 4), layouts=("contiguous", "transposed", "sliced", "offset")), st.sampled_from((0.0, 0.01, 0.5))
    ),
    edge_cases=lambda: {
        "a row": (numbers((5,)), 0.1),
        "a matrix in steps": (numbers((3, 6))[:, ::2], 0.3),
        "slope 0": (numbers((4,), seed=2), 0.0),
        "a zero": (torch.tensor([-1.0, 0.0, 2.0]), 0.5),
        "a negative slope": (numbers((4,)), -0.1),
    },
    laws=[
        Value(),
        SharesMemory(),
        MovesVersion(),
        InPlaceGradient(on=("a row", "a matrix in steps", "slope 0")),
        InPlaceSaves(at_most=lambda *_: 0, on=("a row", "a matrix in steps")),
        Forbids(
            {
                "torch.nn.functional.leaky_relu": "write the Function yourself",
                "torch.nn.functional.leaky_relu_": "write the Function yourself",
            }
        ),
    ],
    changes=(0,),
)
def leaky_relu_in_place(x: torch.Tensor, slope: float) -> torch.Tensor:
    """An activation in place, with the right backward.

    Replace every negative element of `x` by `slope` times itself, in `x`'s own memory, and return `x`. The gradient
    must be right for the result and for `x` used afterwards, and nothing but `x` itself may be saved for backward.
    Raise ValueError for a negative slope: then the input's sign cannot be read from the output any more.

    ```python
    x = torch.tensor([-2.0, 3.0])
    leaky_relu_in_place(x, 0.1)  # tensor([-0.2000, 3.0000]), and so is x
    ```
    """
    if slope < 0:
        raise ValueError(f"slope is {slope}; in place it must be at least 0: the output has to keep the input's sign")

    class LeakyReLU(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            x.copy_(torch.where(x > 0, x, slope * x))
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            (y,) = ctx.saved_tensors
            return torch.where(y > 0, grad, slope * grad)

    return LeakyReLU.apply(x)  # type: ignore[no-any-return]


def _function(forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    names = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("LeakyReLU", (torch.autograd.Function,), names)


def _require_sign(slope: float) -> None:
    if slope < 0:
        raise ValueError("slope")


def _write(ctx: Any, x: torch.Tensor, slope: float) -> torch.Tensor:
    x.copy_(torch.where(x > 0, x, slope * x))
    ctx.mark_dirty(x)
    ctx.save_for_backward(x)
    ctx.slope = slope
    return x


def _from_output(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    return torch.where(ctx.saved_tensors[0] > 0, grad, ctx.slope * grad), None


@leaky_relu_in_place.wrong("It makes a new tensor. The point was to use no more memory: write into `x` and return it.")
def out_of_place(x, slope):
    _require_sign(slope)
    return torch.where(x > 0, x, slope * x)


@leaky_relu_in_place.wrong(
    "It writes through `.data`. Autograd sees no operation: the gradient passes as if nothing had happened."
)
def past_autograd(x, slope):
    _require_sign(slope)
    x.data.copy_(torch.where(x > 0, x, slope * x))
    return x


@leaky_relu_in_place.wrong("It multiplies by a mask in place. Autograd saves the mask: as many bytes as you had saved.")
def saves_a_mask(x, slope):
    _require_sign(slope)
    return x.mul_(torch.where(x > 0, 1.0, slope).to(x.dtype))


@leaky_relu_in_place.wrong(
    "It does not say `ctx.mark_dirty(x)`. The result has the right gradient; `x` itself still claims to be what it was."
)
def not_marked_dirty(x, slope):
    _require_sign(slope)

    def forward(ctx, x, slope):
        x.copy_(torch.where(x > 0, x, slope * x))
        y = x.view_as(x)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    return _function(forward, _from_output).apply(x, slope)


@leaky_relu_in_place.wrong("Its backward is that of ReLU: below zero the gradient is `slope`, not 0.")
def backward_of_relu(x, slope):
    _require_sign(slope)
    return _function(_write, lambda ctx, grad: (grad * (ctx.saved_tensors[0] > 0), None)).apply(x, slope)


@leaky_relu_in_place.wrong(
    "It accepts a negative slope. Then both branches of the output can be positive, and backward guesses."
)
def any_slope(x, slope):
    return _function(_write, _from_output).apply(x, slope)


@leaky_relu_in_place.also_right
def with_masked_write(x, slope):
    _require_sign(slope)

    def forward(ctx, x, slope):
        x.sub_(x.clamp(max=0), alpha=1 - slope)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.slope = slope
        return x

    return _function(forward, _from_output).apply(x, slope)
