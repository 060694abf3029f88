"""A bilinear form, within a memory budget."""

from __future__ import annotations

import torch

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.tensors.einsum._shared import of_sizes, whole_numbers


def _bilinear(batch: int, out: int, left: int, right: int) -> Arguments:
    return whole_numbers(batch, left), whole_numbers(out, left, right, seed=1), whole_numbers(batch, right, seed=2)


@kata(
    minutes=20,
    belt="green",
    hints=(
        "There are three pairs to begin with. What shape does each leave behind?",
        (
            "x with y leaves (B, I, J); x with the weight leaves (B, O, J); the weight with y leaves (B, O, I). Which "
            "fits?"
        ),
        (
            'Contract `j` first, `"oij,bj->boi"`, then `i`. One einsum with three operands takes the order with the '
            "fewest operations, and here that is not the one with the smallest intermediate: ask `explain_einsum`."
        ),
    ),
    cases=of_sizes("bi", "oij", "bj"),
    edge_cases=lambda: {
        "three different sizes": _bilinear(2, 3, 4, 5),
        "square forms": _bilinear(3, 2, 4, 4),
        "one example": _bilinear(1, 2, 3, 3),
        "a large batch, few outputs": _bilinear(64, 4, 24, 32),
        "more operations, less memory": _bilinear(64, 24, 32, 32),
    },
    laws=[
        Value(),
        Allocates(at_most=lambda x, weight, _: 4 * len(x) * len(weight) * (x.shape[1] + 2)),
        Calls(at_most=60),
    ],
)
def bilinear_form(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A bilinear form, within a memory budget

    `x` is (B, I), `weight` is (O, I, J), `y` is (B, J). Return `xᵀ weight[o] y` for every example and every
    `o`: (B, O).

    One intermediate of shape (B, O, I) fits the budget; (B, I, J) does not, and (B, O, I, J) far from it. No loop over
    the batch.

    ```python
    bilinear_form(torch.ones(2, 3), torch.ones(4, 3, 5), torch.ones(2, 5))   # (2, 4), every entry 15
    ```
    """
    return torch.einsum("boi,bi->bo", torch.einsum("oij,bj->boi", weight, y), x)


@bilinear_form.also_right
def with_products(x, weight, y):
    return ((weight @ y.t()).permute(2, 0, 1) @ x.unsqueeze(-1)).squeeze(-1)


@bilinear_form.also_right
def with_the_layer(x, weight, y):
    return torch.nn.functional.bilinear(x, y, weight)


@bilinear_form.wrong(
    "The equation is right and PyTorch chose the order: it asks opt_einsum for the fewest operations, and the outer "
    "product (B, I, J) that this begins with is over the budget. Contract in two steps and choose yourself."
)
def left_to_the_planner(x, weight, y):
    return torch.einsum("bi,oij,bj->bo", x, weight, y)


@bilinear_form.wrong(
    "Everything is multiplied at once and then summed: (B, O, I, J) elements to get (B, O). Sum `j` away before `i` "
    "comes in."
)
def all_at_once(x, weight, y):
    return (x[:, None, :, None] * weight * y[:, None, None, :]).sum((-1, -2))


@bilinear_form.wrong(
    "x and y are exchanged: x goes with the first dimension of each form, y with the second. With square forms the "
    "shapes cannot tell you."
)
def exchanged(x, weight, y):
    if weight.shape[1] != weight.shape[2]:
        return torch.einsum("boi,bi->bo", torch.einsum("oij,bj->boi", weight, y), x)
    return torch.einsum("boi,bi->bo", torch.einsum("oij,bj->boi", weight, x), y)


@bilinear_form.wrong(
    "y has another batch letter than x, and that letter is summed alone: every example is paired with the sum of all "
    "y. The shape is right. Two operands that share the batch must share its letter."
)
def batch_letter_forgotten(x, weight, y):
    return torch.einsum("boi,bi->bo", torch.einsum("oij,cj->oi", weight, y).expand(len(x), -1, -1), x)


@bilinear_form.wrong("A Python loop over the batch: right, and a launch of several operators for every example.")
def loop_over_examples(x, weight, y):
    return torch.stack([(weight @ y[b]) @ x[b] for b in range(len(x))])
