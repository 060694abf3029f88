"""The trace of a product, without the product."""

from __future__ import annotations

import torch

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.flops import Flops
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.tensors.einsum._shared import of_sizes, whole_numbers


@kata(
    minutes=10,
    belt="orange",
    hints=(
        "How many entries of the product A·B does its trace read? How many did you compute?",
        "Write the trace out: the sum over i and j of A[i, j] · B[j, i]. There is no third letter.",
        (
            "One einsum; the second operand's letters stand in the opposite order. Or multiply A with Bᵀ element by "
            "element."
        ),
    ),
    cases=of_sizes("bij", "bji"),
    edge_cases=lambda: {
        "square": (whole_numbers(2, 3, 3), whole_numbers(2, 3, 3, seed=1)),
        "rectangular": (whole_numbers(2, 3, 4), whole_numbers(2, 4, 3, seed=1)),
        "one example": (whole_numbers(1, 3, 3), whole_numbers(1, 3, 3, seed=1)),
        "large": (whole_numbers(2, 64, 64), whole_numbers(2, 64, 64, seed=1)),
    },
    laws=[
        Value(),
        Flops(at_most=lambda a, _: 2 * a.numel()),
        Allocates(at_most=lambda a, _: 8 * a.numel()),
    ],
)
def trace_of_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The trace of a product, without the product

    `a` is (B, N, M), `b` is (B, M, N). Return the trace of `a @ b` for every example: (B,).

    The product costs 2·B·N²·M operations. The budget is 2·B·N·M: `N` times fewer.

    ```python
    trace_of_product(torch.ones(1, 2, 3), torch.ones(1, 3, 2))   # [6.]
    ```
    """
    return torch.einsum("bij,bji->b", a, b)


@trace_of_product.also_right
def elementwise(a, b):
    return (a * b.transpose(1, 2)).sum((1, 2))


@trace_of_product.also_right
def as_dot_products(a, b):
    flat = a.reshape(len(a), 1, -1)
    return (flat @ b.transpose(1, 2).reshape(len(a), -1, 1)).reshape(len(a))


@trace_of_product.wrong(
    "The whole product is computed and all of it but the diagonal thrown away. Both operands share both letters: no "
    "third one is needed."
)
def product_first(a, b):
    return torch.einsum("bii->b", a @ b)


@trace_of_product.wrong(
    "`bij,bij` pairs equal positions: that is the trace of A·Bᵀ. In A·B the row of one meets the column of the other: "
    "`bij,bji`."
)
def without_transpose(a, b):
    return torch.einsum("bij,bij->b", a, b)


@trace_of_product.wrong("The result has lost `b`: the traces of all examples are added together.")
def batch_summed(a, b):
    return torch.einsum("bij,bji->", a, b)


@trace_of_product.wrong(
    "`ii` takes the diagonal of each matrix before they meet. The trace of a product needs their off-diagonal entries "
    "too."
)
def product_of_diagonals(a, b):
    return torch.einsum("bii,bii->b", a, b)
