"""Quantize, and learn through it."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.backward import GradientOfSum
from blackbelt.dojo.laws.context import NothingOnContext
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes, tensors
from blackbelt.katas.autograd.functions._shared import function_of, leaf


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "The derivative of rounding is 0 almost everywhere. Which derivative do you want backward to pretend there is?",
        (
            "Inside the range pretend that nothing happened: `grad_output` passes as it is. Outside, the clamp is "
            "real, and its derivative is 0."
        ),
        (
            "`mask = (x >= -limit * step) & (x <= limit * step)`; backward returns `grad_output * mask` and one `None` "
            "for every argument of `forward` that is not a tensor."
        ),
    ),
    cases=st.tuples(tensors(shapes(0, 2, 0, 4)), st.sampled_from((0.25, 0.5, 1.0)), st.integers(1, 4)),
    edge_cases=lambda: {
        "inside the range": (torch.tensor([-0.9, -0.2, 0.3, 1.1], requires_grad=True), 0.5, 8),
        "outside the range": (torch.tensor([-9.0, 0.3, 0.8, 7.0], requires_grad=True), 0.5, 4),
        "on the edge": (torch.tensor([-2.0, 2.0, 2.25], requires_grad=True), 0.5, 4),
        "a step of 1": (torch.tensor([-1.4, 0.6, 2.2], requires_grad=True), 1.0, 2),
        "what is saved": (leaf(64, 32), 0.25, 4),
    },
    laws=[
        Value(),
        RequiresGrad(),
        GradientOfSum(),
        SameGradients(),
        SavesForBackward(at_most=lambda x, *_: x.numel(), on=("what is saved",)),
        NothingOnContext(on=("what is saved",)),
    ],
)
def round_straight_through(x: torch.Tensor, step: float, limit: int) -> torch.Tensor:
    """Quantize, and learn through it.

    Return `x` rounded to the nearest multiple of `step`, at least −`limit · step` and at most `limit · step`. Backward
    is straight-through: where `−limit · step ≤ x ≤ limit · step` the gradient passes unchanged, elsewhere it is 0. Save
    at most one byte per element for backward (`x` itself is free).

    ```python
    round_straight_through(torch.tensor([0.3, 9.0]), step=0.5, limit=4)  # tensor([0.5000, 2.0000])
    ```
    """

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor, step: float, limit: int) -> torch.Tensor:
            return (x / step).round().clamp(-limit, limit) * step

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[torch.Tensor, float, int], output: torch.Tensor) -> None:
            x, step, limit = inputs
            ctx.save_for_backward(x)
            ctx.bound = limit * step

        @staticmethod
        def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
            (x,) = ctx.saved_tensors
            return grad_output * (x.abs() <= ctx.bound), None, None

    return Round.apply(x, step, limit)  # type: ignore[no-any-return]


def _rounded(x: torch.Tensor, step: float, limit: int) -> torch.Tensor:
    return (x / step).round().clamp(-limit, limit) * step


def _forward(ctx: Any, x: torch.Tensor, step: float, limit: int) -> torch.Tensor:
    ctx.save_for_backward(x)
    ctx.step, ctx.bound = step, limit * step
    return _rounded(x, step, limit)


@round_straight_through.wrong(
    "It lets autograd record the rounding, whose derivative is 0. Every gradient is 0 and nothing learns."
)
def recorded(x, step, limit):
    return _rounded(x, step, limit)


@round_straight_through.wrong("It detaches the result: there is no graph, and no gradient arrives at all.")
def detached(x, step, limit):
    return _rounded(x.detach(), step, limit)


@round_straight_through.wrong(
    "It passes the gradient outside the range as well. There a small step changes nothing: such weights run away."
)
def straight_through_everywhere(x, step, limit):
    return x + (_rounded(x, step, limit) - x).detach()


@round_straight_through.wrong(
    "Its backward returns the mask and forgets `grad_output`: the same gradient, whatever the loss."
)
def ignores_grad_output(x, step, limit):
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return (x.abs() <= ctx.bound).to(x.dtype), None, None

    return function_of(_forward, backward).apply(x, step, limit)


@round_straight_through.wrong(
    "Its backward divides by `step` and forgets that forward multiplies by it again: the two cancel."
)
def half_of_the_chain_rule(x, step, limit):
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * (x.abs() <= ctx.bound) / ctx.step, None, None

    return function_of(_forward, backward).apply(x, step, limit)


@round_straight_through.wrong(
    "Its backward returns one gradient. Autograd wants one for every argument of `forward`: `None` for `step` and "
    "`limit`."
)
def one_gradient_for_three(x, step, limit):
    def backward(ctx, grad_output):
        return grad_output * (ctx.saved_tensors[0].abs() <= ctx.bound)

    return function_of(_forward, backward).apply(x, step, limit)


@round_straight_through.wrong(
    "It excludes the edge. A value that sits exactly on the last level is inside the range and may still move. "
    "(Since PyTorch 2.15 the gradient of `clamp` leaves it out too.)"
)
def without_the_edge(x, step, limit):
    def backward(ctx, grad_output):
        return grad_output * (ctx.saved_tensors[0].abs() < ctx.bound), None, None

    return function_of(_forward, backward).apply(x, step, limit)


@round_straight_through.wrong(
    "It saves the mask as floating-point numbers: four bytes for a yes or no. Save `x`, or a mask of booleans."
)
def saves_a_float_mask(x, step, limit):
    def forward(ctx, x, step, limit):
        ctx.save_for_backward((x.abs() <= limit * step).to(x.dtype))
        return _rounded(x, step, limit)

    return function_of(forward, lambda ctx, grad_output: (grad_output * ctx.saved_tensors[0], None, None)).apply(
        x, step, limit
    )


@round_straight_through.also_right
def by_detaching_the_difference(x, step, limit):
    return _rounded(x.detach(), step, limit) + (x - x.detach()) * (x.abs() <= limit * step)


@round_straight_through.also_right
def saves_a_boolean_mask(x, step, limit):
    def forward(ctx, x, step, limit):
        ctx.save_for_backward(x.abs() <= limit * step)
        return _rounded(x, step, limit)

    def backward(ctx, grad_output):
        return grad_output.masked_fill(~ctx.saved_tensors[0], 0), None, None

    return function_of(forward, backward).apply(x, step, limit)
