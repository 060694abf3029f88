"""Hessian times vector, forward over reverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.passes import BackwardPasses
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.laws.vmap import Vmap
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.autograd.retain._shared import Formula, load_forward_mode

CHAIN = Formula("(x[1:] * x[:-1].sin()).sum() + x.exp().sum()")
CUBES = Formula("x.pow(3).sum()")
LINEAR = Formula("(3 * x).sum()")


def _edge_cases() -> Mapping[str, tuple[Any, ...]]:
    load_forward_mode()
    return {
        "a sum of cubes": (CUBES, torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])),
        "a chain": (CHAIN, numbers((4,)), numbers((4,), seed=1)),
        "two hundred numbers": (CHAIN, numbers((200,)) / 4, numbers((200,), seed=1)),
        "a linear function": (LINEAR, numbers((3,)), numbers((3,), seed=1)),
        "a leaf of the caller": (CHAIN, numbers((4,)).requires_grad_(), numbers((4,), seed=1)),
    }


@kata(
    minutes=15,
    belt="green",
    hints=(
        "H·v is how the gradient changes when x moves in the direction v. Which transform answers just that question?",
        (
            "`torch.func.jvp(g, (x,), (v,))` returns g(x) and its change along v, in one forward pass through g. "
            "Here g is itself a gradient."
        ),
        "`torch.func.jvp(torch.func.grad(function), (x.detach(),), (v,))[1]`",
    ),
    cases=st.tuples(st.sampled_from((CHAIN, CUBES)), st.integers(2, 5), st.integers(0, 99)).map(
        lambda drawn: (drawn[0], numbers((drawn[1],), seed=drawn[2]), numbers((drawn[1],), seed=drawn[2] + 1))
    ),
    edge_cases=_edge_cases,
    laws=[
        Value(),
        RequiresGrad(),
        Allocates(at_most=lambda _, x, *__: 60 * x.nbytes, on=("two hundred numbers",)),
        Vmap(arguments=(2,), on=("a sum of cubes", "a chain")),
        BackwardPasses(at_most=lambda *_: 1),
    ],
)
def hvp_forward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Hessian times vector, forward over reverse.

    The same H·v as in `hvp_reverse`, by the modern road: **one** backward pass, and one forward derivative through it.
    It must run under `torch.vmap` over `v` (that is how several columns of H are had at once), leave `x` as it is, and
    return a result without a graph, whether or not `x` requires grad.

    ```python
    hvp_forward(lambda x: x.pow(3).sum(), torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))  # tensor([18., 60.])
    ```
    """
    return torch.func.jvp(torch.func.grad(function), (x.detach(),), (v,))[1]  # type: ignore[no-any-return]


@hvp_forward.wrong(
    "It forms the whole Hessian: `torch.func.hessian` is n forward passes over the gradient, batched, and keeps n² "
    "numbers. One direction needs one."
)
def whole_hessian(function, x, v):
    return torch.func.hessian(function)(x.detach()) @ v


@hvp_forward.wrong(
    "It is right, and reverse over reverse: `vjp` of `grad` runs a second backward pass through the first. `jvp` goes "
    "through the first one forward."
)
def reverse_over_reverse(function, x, v):
    return torch.func.vjp(torch.func.grad(function), x.detach())[1](v)[0]


@hvp_forward.wrong(
    "It is `hvp_reverse` again. `torch.autograd.grad` with `requires_grad_()` does not get through `torch.vmap`; "
    "`torch.func.grad` and `jvp` compose."
)
def by_double_backward(function, x, v):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    return torch.autograd.grad(gradient, x, v)[0]


@hvp_forward.wrong(
    "It returns the gradient itself, the first of the two things `jvp` returns. The product with v is the second."
)
def primal_instead(function, x, v):
    return torch.func.jvp(torch.func.grad(function), (x.detach(),), (v,))[0]


@hvp_forward.wrong("It has point and direction the wrong way round: `jvp(g, (x,), (v,))` moves from x along v.")
def point_and_direction_swapped(function, x, v):
    return torch.func.jvp(torch.func.grad(function), (v,), (x.detach(),))[1]


@hvp_forward.wrong(
    "It differentiates the function along v, not its gradient: one number, the slope. Wrap it: "
    "`torch.func.grad(function)`."
)
def slope_only(function, x, v):
    return torch.func.jvp(function, (x.detach(),), (v,))[1]


@hvp_forward.wrong(
    "`torch.func` looks through to a tensor that requires grad outside, and the product comes back with a graph. Pass "
    "`x.detach()`."
)
def graph_of_the_caller(function, x, v):
    return torch.func.jvp(torch.func.grad(function), (x,), (v,))[1]


@hvp_forward.wrong(
    "It takes a difference of two gradients. In float32 the rounding of such a quotient eats the digits."
)
def finite_difference(function, x, v):
    gradient, step = torch.func.grad(function), 1e-3
    return (gradient(x.detach() + step * v) - gradient(x.detach() - step * v)) / (2 * step)


@hvp_forward.also_right
def reverse_over_forward(function, x, v):
    return torch.func.grad(lambda point: torch.func.jvp(function, (point,), (v,))[1])(x.detach())


@hvp_forward.also_right
def detached_at_the_end(function, x, v):
    return torch.func.jvp(torch.func.grad(function), (x,), (v,))[1].detach()
