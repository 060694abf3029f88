"""A formula where recording fails."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.backward import GradientOfSum
from blackbelt.dojo.laws.context import NothingOnContext
from blackbelt.dojo.laws.gradients import DoubleBackward
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, shapes, tensors
from blackbelt.katas.autograd.functions._shared import function_of, leaf, once

_BUILD_IT = "write the formula yourself"


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        "Which of exp(x) and exp(−x) overflows, and for which x? Write softplus so that only the other is computed.",
        (
            "log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|)). For backward do not differentiate that; what is the "
            "derivative of log(1 + exp(x)) on paper?"
        ),
        "It is the sigmoid. Save `x`, and return `grad_output * torch.sigmoid(x)`.",
    ),
    cases=st.tuples(tensors(shapes(0, 3, 0, 4))),
    edge_cases=lambda: {
        "a row": (leaf(5),),
        "large numbers": (torch.tensor([-800.0, -90.0, 90.0, 800.0], requires_grad=True),),
        "a zero": (torch.tensor([-1.0, 0.0, 1.0], requires_grad=True),),
        "the second derivative": (leaf(4, seed=1),),
        "a column in steps": (numbers((4, 3))[:, 1].detach().requires_grad_(),),
        "what is saved": (leaf(64, 32),),
    },
    laws=[
        Value(),
        GradientOfSum(),
        SameGradients(),
        DoubleBackward(on=("the second derivative",)),
        SavesForBackward(at_most=lambda _: 0, on=("what is saved",)),
        NothingOnContext(on=("what is saved",)),
        Forbids(
            {
                "torch.nn.functional.softplus": _BUILD_IT,
                "torch.nn.functional.logsigmoid": _BUILD_IT,
                "torch.logaddexp": _BUILD_IT,
                "aten::softplus": _BUILD_IT,
                "aten::logaddexp": _BUILD_IT,
            }
        ),
    ],
)
def stable_softplus(x: torch.Tensor) -> torch.Tensor:
    """A formula where recording fails.

    Return softplus, log(1 + exp(x)), element by element, as a `torch.autograd.Function`. Values and gradients must be
    right for any finite `x`, ±800 included. Save `x` and nothing else for backward. The second derivative must be right
    too.

    ```python
    stable_softplus(torch.tensor([0.0, 800.0]))  # tensor([0.6931, 800.0000])
    ```
    """

    class Softplus(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return grad_output * torch.sigmoid(x)

    return Softplus.apply(x)  # type: ignore[no-any-return]


def _stable(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def _forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
    ctx.save_for_backward(x)
    return _stable(x)


def _by_sigmoid(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
    return grad_output * torch.sigmoid(ctx.saved_tensors[0])


@stable_softplus.wrong("It computes exp(x). That is infinite from 89 on in float32, and so is the logarithm.")
def overflows(x):
    return torch.log1p(torch.exp(x))


@stable_softplus.wrong(
    "Its `torch.where` picks the right value, and backward still walks both branches: 0 · inf in the other one is NaN."
)
def where_and_recorded(x):
    return torch.where(x > 20, x, torch.log1p(torch.exp(x)))


@stable_softplus.wrong(
    "It is the stable formula, recorded. At 0 autograd adds up the slopes of the clamp and of |x|, which both have a "
    "kink there, and does not get 1/2. And it saves a tensor that you could do without."
)
def stable_but_recorded(x):
    return _stable(x)


@stable_softplus.wrong(
    "Its backward returns the derivative and forgets `grad_output`. Only for a loss that sums the result is that right."
)
def ignores_grad_output(x):
    return function_of(_forward, lambda ctx, _: torch.sigmoid(ctx.saved_tensors[0])).apply(x)


@stable_softplus.wrong("Its backward divides exp(x) by 1 + exp(x): inf / inf is NaN. `torch.sigmoid` is the safe form.")
def backward_overflows(x):
    def backward(ctx, grad_output):
        e = ctx.saved_tensors[0].exp()
        return grad_output * e / (1 + e)

    return function_of(_forward, backward).apply(x)


@stable_softplus.wrong(
    "It saves the sigmoid in forward. To autograd that is a constant: the second derivative is lost, and what is saved "
    "is a tensor more than `x`."
)
def saves_the_sigmoid(x):
    def forward(ctx, x):
        ctx.save_for_backward(torch.sigmoid(x))
        return _stable(x)

    return function_of(forward, lambda ctx, grad_output: grad_output * ctx.saved_tensors[0]).apply(x)


@stable_softplus.wrong(
    "It saves the result besides `x`. The derivative follows from `x` alone, and what is saved lives until backward."
)
def saves_the_result(x):
    def forward(ctx, x):
        y = _stable(x)
        ctx.save_for_backward(x, y)
        return y

    return function_of(
        forward, lambda ctx, grad_output: grad_output * torch.exp(ctx.saved_tensors[0] - ctx.saved_tensors[1])
    ).apply(x)


@stable_softplus.wrong(
    "It keeps `x` as an attribute of `ctx`. Nobody checks its version there: change `x` before backward, and the "
    "gradient is wrong without a word."
)
def keeps_an_attribute(x):
    def forward(ctx, x):
        ctx.x = x
        return _stable(x)

    return function_of(forward, lambda ctx, grad_output: grad_output * torch.sigmoid(ctx.x)).apply(x)


@stable_softplus.wrong(
    "Its backward is marked `once_differentiable`. It could be differentiated again, without effort."
)
def only_once(x):
    return function_of(_forward, once(_by_sigmoid)).apply(x)


@stable_softplus.also_right
def in_one_static_method(x):
    return function_of(_forward, _by_sigmoid).apply(x)


@stable_softplus.also_right
def by_the_logarithm_of_the_sigmoid(x):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x + torch.log1p(torch.exp(-x.abs())), torch.log1p(torch.exp(-x.abs())))

    return function_of(forward, lambda ctx, grad_output: grad_output / (1 + torch.exp(-ctx.saved_tensors[0]))).apply(x)
