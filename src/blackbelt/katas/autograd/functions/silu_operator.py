"""An operator that the compiler believes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.custom_operator import OperatorChecks, OperatorCompiles, OperatorComputes, OperatorSaves
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.functions._shared import function_of


def _small() -> torch.Tensor:
    return numbers((3, 4))


def _double() -> torch.Tensor:
    return numbers((3, 4), torch.float64)


def _silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


_CASES = (
    *("the values", "what it declares", "the gradient of the sum", "the gradient of a weighted sum", "a fake tensor"),
    *("a fake tensor in float64", "what is saved", "compiled"),
)


@kata(
    minutes=25,
    belt="brown",
    hints=(
        (
            "An operator is a name in PyTorch's dispatcher with several kernels. Which three must you give it: for "
            "real tensors, for shapes only, for backward?"
        ),
        (
            "`torch.library.custom_op(name, mutates_args=())` decorates the kernel; its annotations become the schema. "
            "`@operator.register_fake` returns an empty tensor like the result. "
            "`operator.register_autograd(backward, setup_context=…)` adds the gradient."
        ),
        (
            "The fake kernel is `torch.empty_like(x)`. `setup_context(ctx, inputs, output)` saves `inputs[0]`; "
            "`backward(ctx, grad)` computes `s = torch.sigmoid(x)` again and returns `grad * s * (1 + x * (1 - s))`."
        ),
    ),
    cases=st.sampled_from((("blackbelt_katas::silu",), ("blackbelt_katas::swish",))),
    edge_cases=lambda: dict.fromkeys(_CASES, ("blackbelt_katas::silu",)),
    laws=[
        OperatorComputes(sample=_small, oracle=_silu, on=("the values",)),
        OperatorChecks(sample=_small, tests=("test_schema",), requires_grad=False, on=("what it declares",)),
        OperatorComputes(sample=_small, oracle=_silu, gradient=True, on=("the gradient of the sum",)),
        OperatorComputes(
            sample=_small, oracle=_silu, gradient=True, weighted=True, on=("the gradient of a weighted sum",)
        ),
        OperatorChecks(sample=_small, tests=("test_faketensor",), on=("a fake tensor",)),
        OperatorChecks(sample=_double, tests=("test_faketensor",), on=("a fake tensor in float64",)),
        OperatorSaves(sample=lambda: numbers((64, 32)), at_most=lambda _: 0, on=("what is saved",)),
        OperatorCompiles(sample=_small, on=("compiled",)),
    ],
)
def silu_operator(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """An operator that the compiler believes.

    Register SiLU, x · sigmoid(x), as an operator of PyTorch under `name` (such as "mine::silu"), and return what
    `torch.library.custom_op` gives you. It must have the right gradient, save nothing but its input, pass
    `torch.library.opcheck`, and compile with its backward into one graph.

    ```python
    silu = silu_operator("mine::silu")
    silu(torch.tensor([1.0]))  # tensor([0.7311])
    torch.ops.mine.silu(torch.tensor([1.0]))  # the same operator
    ```
    """

    @torch.library.custom_op(name, mutates_args=())
    def silu(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    @silu.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, grad_output: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad_output * s * (1 + x * (1 - s))

    silu.register_autograd(backward, setup_context=setup_context)
    return silu


def _kernel(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def _save_input(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_output: torch.Tensor) -> Any:
    (x,) = ctx.saved_tensors
    s = torch.sigmoid(x)
    return grad_output * s * (1 + x * (1 - s))


def _operator(
    name: str,
    kernel: Callable[..., Any] = _kernel,
    fake: Callable[..., Any] | None = torch.empty_like,
    backward: Callable[..., Any] | None = _backward,
    setup_context: Callable[..., Any] | None = _save_input,
) -> Any:
    operator = torch.library.custom_op(name, kernel, mutates_args=(), schema="(Tensor x) -> Tensor")
    if fake is not None:
        operator.register_fake(fake)
    if backward is not None:
        operator.register_autograd(backward, setup_context=setup_context)
    return operator


@silu_operator.wrong(
    "It has no fake kernel. The compiler must know shape and dtype of the result before anything runs: `register_fake`."
)
def without_a_fake_kernel(name):
    return _operator(name, fake=None)


@silu_operator.wrong(
    "Its fake kernel makes a tensor of the default dtype. It must be exact about dtype and device too: `empty_like`."
)
def fake_forgets_the_dtype(name):
    return _operator(name, fake=lambda x: torch.empty(x.shape))


@silu_operator.wrong(
    "It has no gradient. Autograd does not look into an operator's kernel: `register_autograd` tells it the formula."
)
def without_a_gradient(name):
    return _operator(name, backward=None)


@silu_operator.wrong(
    "It registers a backward without a `setup_context`: nothing is saved, and `ctx.saved_tensors` is empty."
)
def without_setup_context(name):
    return _operator(name, setup_context=None)


@silu_operator.wrong("Its backward forgets `grad_output`; it is right for a plain sum and for nothing else.")
def ignores_grad_output(name):
    return _operator(name, backward=lambda ctx, _: _backward(ctx, torch.ones_like(ctx.saved_tensors[0])))


@silu_operator.wrong(
    "Its kernel writes to `x` and the schema says that it does not (`mutates_args=()`). The compiler reorders such an "
    "operator freely."
)
def writes_to_its_input(name):
    return _operator(name, kernel=lambda x: x.mul_(torch.sigmoid(x)).clone())


@silu_operator.wrong(
    "It saves the result besides the input. A second tensor kept in every layer, where the sigmoid is cheap to redo."
)
def saves_the_result(name):
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs, output)

    def backward(ctx, grad_output):
        x, y = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad_output * (s + y * (1 - s))

    return _operator(name, backward=backward, setup_context=setup_context)


@silu_operator.wrong(
    "What it returns is no operator: a Function's `apply` or a wrapper has no name in the dispatcher, and no schema to "
    "check. Return what `torch.library.custom_op` made, under the name that was asked for."
)
def function_instead_of_operator(name):
    return function_of(_kernel, _backward, _save_input).apply


@silu_operator.also_right
def with_a_schema(name):
    return _operator(name)
