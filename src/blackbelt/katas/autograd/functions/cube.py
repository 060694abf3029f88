"""A gradient that has a gradient."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.backward import BackwardIsRecorded
from blackbelt.dojo.laws.context import NothingOnContext, OneNode
from blackbelt.dojo.laws.gradients import DoubleBackward
from blackbelt.dojo.laws.same_gradients import SameGradients
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.transforms import PerSampleGradients
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import shapes, tensors
from blackbelt.katas.autograd.functions._shared import function_of, leaf, once, save_inputs


@kata(
    minutes=15,
    belt="orange",
    hints=(
        (
            "With `create_graph=True` autograd records what backward does. What must backward's operations be applied "
            "to, so that the recording leads back to `x`?"
        ),
        (
            "Save `x`, not 3x²: a saved input comes back as the very tensor that is in the graph. And `torch.func` "
            "wants `forward` without `ctx`, and a `setup_context`."
        ),
        (
            "`forward(x)`, `setup_context(ctx, inputs, output)` with `ctx.save_for_backward(*inputs)`, `backward` "
            "returns `grad_output * 3 * x**2`; and `generate_vmap_rule = True` in the class."
        ),
    ),
    cases=st.tuples(tensors(shapes(0, 3, 0, 4))),
    edge_cases=lambda: {
        "a row": (leaf(4),),
        "a zero": (torch.tensor([-1.0, 0.0, 2.0], requires_grad=True),),
        "the second derivative": (leaf(3, seed=1),),
        "what is saved": (leaf(64, 32),),
        "per-sample gradients": (leaf(5, seed=2),),
    },
    laws=[
        Value(),
        SameGradients(),
        BackwardIsRecorded(on=("the second derivative",)),
        DoubleBackward(on=("the second derivative",)),
        SavesForBackward(at_most=lambda _: 0, on=("what is saved",)),
        NothingOnContext(on=("what is saved",)),
        PerSampleGradients(on=("per-sample gradients",)),
        OneNode(on=("a row",)),
    ],
)
def cube(x: torch.Tensor) -> torch.Tensor:
    """A gradient that has a gradient.

    Return x³, element by element, through one `torch.autograd.Function` of your own. First and second derivatives must
    be right, `x` is all that may be saved, and `torch.func.vmap(torch.func.grad(…))` must run through it.

    ```python
    x = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(cube(x), x, create_graph=True)  # 12
    torch.autograd.grad(slope, x)  # 12 again: 6x
    ```
    """

    class Cube(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * x * x

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, grad_output: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return grad_output * 3 * x * x

    return Cube.apply(x)  # type: ignore[no-any-return]


def _forward(x: torch.Tensor) -> torch.Tensor:
    return x**3


def _backward(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
    (x,) = ctx.saved_tensors
    return torch.as_tensor(grad_output * 3 * x**2)


@cube.wrong("Its backward forgets `grad_output`. A chain rule with one link is right only where everything is summed.")
def ignores_grad_output(x):
    return function_of(_forward, lambda ctx, _: 3 * ctx.saved_tensors[0] ** 2, save_inputs).apply(x)


@cube.wrong(
    "It computes 3x² in forward and saves that. Autograd does not record inside `forward`, so for it 3x² is a constant "
    "and the second derivative 0."
)
def saves_the_derivative(x):
    def forward(ctx, x):
        ctx.save_for_backward(3 * x**2)
        return x**3

    return function_of(forward, lambda ctx, grad_output: grad_output * ctx.saved_tensors[0]).apply(x)


@cube.wrong("It detaches `x` in backward. The first derivative does not mind; the second is cut off there.")
def detaches_in_backward(x):
    return function_of(
        _forward, lambda ctx, grad_output: grad_output * 3 * ctx.saved_tensors[0].detach() ** 2, save_inputs
    ).apply(x)


@cube.wrong(
    "Its backward cannot be recorded, because it is marked `once_differentiable` or runs under `no_grad`. It says, in "
    "effect, that nobody will ever ask for a second derivative."
)
def only_once(x):
    return function_of(_forward, once(_backward), save_inputs).apply(x)


@cube.wrong("It saves the result and divides by `x`: 3 · x³ / x is NaN at 0, and a tensor more is kept.")
def divides_by_the_input(x):
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        return grad_output * 3 * y / x

    return function_of(_forward, backward, setup_context).apply(x)


@cube.wrong(
    "It keeps `x` as an attribute of `ctx`. There no version is checked: an `x` changed before backward gives a wrong "
    "gradient in silence."
)
def keeps_an_attribute(x):
    def setup_context(ctx, inputs, output):
        (ctx.x,) = inputs

    return function_of(_forward, lambda ctx, grad_output: grad_output * 3 * ctx.x**2, setup_context).apply(x)


@cube.wrong(
    "`torch.func` cannot get in. It needs `forward` without `ctx`, a `setup_context`, and `generate_vmap_rule = True`."
)
def without_setup_context(x):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    return function_of(forward, _backward).apply(x)


@cube.wrong("It leaves the recording to autograd. That is right here, but no Function of your own.")
def recorded(x):
    return x**3


@cube.also_right
def with_powers(x):
    return function_of(_forward, _backward, save_inputs).apply(x)


@cube.also_right
def with_its_own_vmap(x):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output * 3 * ctx.saved_tensors[0] ** 2

        @staticmethod
        def vmap(info, in_dims, x):
            return Cube.apply(x), in_dims[0]

    return Cube.apply(x)
