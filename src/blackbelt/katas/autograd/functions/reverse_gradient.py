"""The same forward, the opposite backward."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.backward import LeavesGradOutput
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, shapes, tensors
from blackbelt.katas.autograd.functions._shared import function_of, leaf


@kata(
    minutes=10,
    belt="white",
    hints=(
        "Forward has nothing to compute. What may it return so that no byte is copied?",
        (
            "`x.view_as(x)` is a new tensor on the old memory. `factor` is a number, so it may be an attribute of "
            "`ctx`; no tensor needs saving."
        ),
        "Backward returns `-ctx.factor * grad_output, None`: a gradient for `x`, and none for the number.",
    ),
    cases=st.tuples(tensors(shapes(0, 3, 0, 4)), st.sampled_from((0.0, 0.5, 1.0, 2.0))),
    edge_cases=lambda: {
        "factor 1": (leaf(4), 1.0),
        "a small factor": (leaf(2, 3), 0.1),
        "an infinite feature": (torch.tensor([1.0, float("inf")], requires_grad=True), 0.5),
        "an input without gradient": (numbers((3,)), 0.5),
        "the same feature, used twice": (leaf(3, seed=2), 0.5),
        "a large feature": (leaf(128, 64), 0.5),
    },
    laws=[
        Value(),
        SameGradients(),
        LeavesGradOutput(on=("the same feature, used twice",)),
        SavesForBackward(at_most=lambda *_: 0, on=("a large feature",)),
        Allocates(at_most=lambda *_: 0, on=("a large feature",)),
    ],
)
def reverse_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The same forward, the opposite backward.

    Return `x` as it is, without copying it. Backward multiplies the gradient by −`factor`. This is the layer between
    features and domain classifier in domain-adversarial training (Ganin and Lempitsky, 2015): the classifier learns to
    tell domains apart, and the features learn to make that impossible.

    ```python
    reverse_gradient(x, 0.5).sum().backward()  # x.grad is −0.5 everywhere
    ```
    """

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor, factor: float) -> torch.Tensor:
            return x.view_as(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[torch.Tensor, float], output: torch.Tensor) -> None:
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
            return -ctx.factor * grad_output, None

    return Reverse.apply(x, factor)  # type: ignore[no-any-return]


def _forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
    ctx.factor = factor
    return x.view_as(x)


@reverse_gradient.wrong("It multiplies in forward. The features themselves are reversed, not what they learn.")
def reverses_the_values(x, factor):
    return -factor * x


@reverse_gradient.wrong("It turns the gradient round and forgets `factor`, the strength of the reversal.")
def without_the_factor(x, factor):
    return function_of(_forward, lambda _, grad_output: (-grad_output, None)).apply(x, factor)


@reverse_gradient.wrong(
    "The gradient keeps its sign: the features learn to help the classifier. Multiply what comes in by −`factor`."
)
def without_the_sign(x, factor):
    return function_of(_forward, lambda ctx, grad_output: (ctx.factor * grad_output, None)).apply(x, factor)


@reverse_gradient.wrong(
    "It builds the identity by arithmetic, (1 + factor) · x.detach() − factor · x. That rounds, inf − inf is NaN, and "
    "it allocates three tensors to change nothing."
)
def by_arithmetic(x, factor):
    return (1 + factor) * x.detach() - factor * x


@reverse_gradient.wrong(
    "Its backward multiplies `grad_output` in place. Autograd gave that tensor to other nodes too; their gradients are "
    "now reversed as well."
)
def in_place(x, factor):
    return function_of(_forward, lambda ctx, grad_output: (grad_output.mul_(-ctx.factor), None)).apply(x, factor)


@reverse_gradient.wrong(
    "It hangs a hook on `x` without asking whether `x` requires grad. Where it does, the hook reverses every gradient "
    "that arrives at `x`, from this call and from all others, for good. Hook the view, or write the Function."
)
def hooks_the_input(x, factor):
    x.register_hook(lambda grad: -factor * grad)
    return x.view_as(x)


@reverse_gradient.wrong("It clones `x`: a copy of every feature, only to hang another backward on it. A view will do.")
def clones(x, factor):
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    return function_of(forward, lambda ctx, grad_output: (-ctx.factor * grad_output, None)).apply(x, factor)


@reverse_gradient.wrong("Its backward returns one gradient; `forward` has two arguments. Return `None` for `factor`.")
def one_gradient_for_two(x, factor):
    return function_of(_forward, lambda ctx, grad_output: -ctx.factor * grad_output).apply(x, factor)


@reverse_gradient.also_right
def hooks_a_view(x, factor):
    y = x.view_as(x)
    if y.requires_grad:
        y.register_hook(lambda grad: -factor * grad)
    return y


@reverse_gradient.also_right
def returns_the_input(x, factor):
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x

    return function_of(forward, lambda ctx, grad_output: (grad_output * -ctx.factor, None)).apply(x, factor)
