"""Hessian times vector, by two backward passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import Formula

CHAIN = Formula("(x[1:] * x[:-1].sin()).sum() + x.exp().sum()")
CUBES = Formula("x.pow(3).sum()")
LINEAR = Formula("(3 * x).sum()")


@kata(
    minutes=20,
    belt="green",
    hints=(
        "H·v needs no H. Of which scalar is it the gradient?",
        "The gradient g(x) is a vector, ∑ gᵢ(x)·vᵢ is a scalar, and the gradient of *that* with respect to x is H·v.",
        (
            "`(g,) = torch.autograd.grad(function(x), x, create_graph=True)`, then `torch.autograd.grad(g, x, v)`. "
            "If `g` does not require grad, the function is linear and H is zero."
        ),
    ),
    cases=st.tuples(st.sampled_from((CHAIN, CUBES)), st.integers(2, 5), st.integers(0, 99)).map(
        lambda drawn: (drawn[0], numbers((drawn[1],), seed=drawn[2]), numbers((drawn[1],), seed=drawn[2] + 1))
    ),
    edge_cases=lambda: {
        "a sum of cubes": (CUBES, torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])),
        "a chain": (CHAIN, numbers((4,)), numbers((4,), seed=1)),
        "two hundred numbers": (CHAIN, numbers((200,)) / 4, numbers((200,), seed=1)),
        "a linear function": (LINEAR, numbers((3,)), numbers((3,), seed=1)),
        "a leaf of the caller": (CHAIN, numbers((4,)).requires_grad_(), numbers((4,), seed=1)),
        "a matrix": (Formula("x.square().sum(0).exp().sum()"), numbers((2, 3)) / 2, numbers((2, 3), seed=1)),
    },
    laws=[
        Value(),
        RequiresGrad(),
        Allocates(at_most=lambda _, x, *__: 40 * x.nbytes, on=("two hundred numbers",)),
    ],
)
def hvp_reverse(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Hessian times vector, by two backward passes.

    `function` maps a tensor to a scalar. Return the Hessian of `function` at `x`, times `v`, in the shape of `x`,
    without ever forming the Hessian: n² numbers for an `x` of n.

    Leave `x` as it is, its `requires_grad` and `.grad` included. The result carries no graph. For a linear function the
    Hessian is zero.

    ```python
    hvp_reverse(lambda x: x.pow(3).sum(), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))  # tensor([18., 60.])
    ```
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    return torch.autograd.grad(gradient, x, v)[0]


def _gradient(function: Callable[..., torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.detach().requires_grad_()
    return x, torch.autograd.grad(function(x), x, create_graph=True)[0]


@hvp_reverse.wrong(
    "It forms the Hessian and multiplies. That is n backward passes and n² numbers for a result of n: a model of a "
    "million parameters has a Hessian of 4 TB."
)
def whole_hessian(function, x, v):
    return torch.autograd.functional.hessian(function, x.detach()) @ v


@hvp_reverse.wrong(
    "The first gradient came without a graph, so there is nothing to differentiate. `retain_graph=True` would not "
    "help: it keeps the forward's graph. `create_graph=True` records the backward."
)
def first_backward_not_recorded(function, x, v):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, retain_graph=True)
    return torch.autograd.grad((gradient * v).sum(), x)[0]


@hvp_reverse.wrong(
    "The gradient of a linear function is a constant and has no graph; the second `autograd.grad` refuses. Its Hessian "
    "is zero, not an error."
)
def no_linear_function(function, x, v):
    x, gradient = _gradient(function, x)
    return torch.autograd.grad((gradient * v).sum(), x)[0]


@hvp_reverse.wrong(
    "It reads `x.grad` after two `backward()`s. `.grad` accumulates: the sum of the gradient and of H·v is there."
)
def both_in_one_grad(function, x, v):
    x = x.detach().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(x).backward(create_graph=True)
    gradient = x.grad
    if gradient.requires_grad:
        (gradient * v).sum().backward()
    return x.grad.detach() if gradient.requires_grad else torch.zeros_like(x)


@hvp_reverse.wrong(
    "It differentiates the sum of the gradient and multiplies by `v` afterwards: (H·1)∘v. That equals H·v only where H "
    "is diagonal. `v` belongs inside."
)
def vector_outside(function, x, v):
    x, gradient = _gradient(function, x)
    return torch.autograd.grad(gradient.sum(), x)[0] * v if gradient.requires_grad else torch.zeros_like(x)


@hvp_reverse.wrong(
    "It takes a difference of two gradients. In float32 the rounding of such a quotient eats the digits."
)
def finite_difference(function, x, v):
    step = 1e-3
    forward, backward = (_gradient(function, x + sign * step * v)[1] for sign in (1, -1))
    return ((forward - backward) / (2 * step)).detach()


@hvp_reverse.wrong(
    "It records the second backward too. Nobody differentiates H·v again; its graph holds both passes in memory."
)
def second_backward_recorded(function, x, v):
    x, gradient = _gradient(function, x)
    if not gradient.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(gradient, x, v, create_graph=True)[0]


@hvp_reverse.wrong(
    "It calls `requires_grad_()` on the caller's tensor. From now on everything the caller computes from it builds a "
    "graph: take `x.detach()` first."
)
def marks_the_input(function, x, v):
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    return torch.autograd.grad(gradient, x, v)[0] if gradient.requires_grad else torch.zeros_like(gradient)


@hvp_reverse.also_right
def with_a_dot_product(function, x, v):
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
        slope = (gradient * v).sum()
    if not slope.requires_grad:
        return torch.zeros_like(v)
    return torch.autograd.grad(slope, x, materialize_grads=True)[0]


@hvp_reverse.also_right
def with_functions(function, x, v):
    _, pull_back = torch.func.vjp(torch.func.grad(function), x.detach())
    return pull_back(v)[0]
