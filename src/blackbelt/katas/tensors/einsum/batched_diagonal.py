"""The diagonals of a batch of matrices, without a copy."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import tensors
from blackbelt.katas.tensors.einsum._shared import whole_numbers


@kata(
    minutes=10,
    belt="white",
    hints=(
        "A diagonal is regular: one step along it is always the same distance in memory.",
        "One step down and one to the right is stride[-2] + stride[-1]. So it can be a view.",
        (
            "A letter repeated in one operand takes a diagonal, and with one operand einsum copies nothing. An "
            "ellipsis takes whatever stands before."
        ),
    ),
    cases=st.tuples(
        st.lists(st.integers(0, 3), max_size=2).flatmap(
            lambda batch: st.integers(1, 4).flatmap(
                lambda n: tensors((*batch, n, n), layouts=("contiguous", "transposed", "sliced", "offset"))
            )
        )
    ),
    edge_cases=lambda: {
        "a batch": (whole_numbers(2, 3, 3),),
        "one matrix": (whole_numbers(4, 4),),
        "two batch dimensions": (whole_numbers(2, 3, 4, 4),),
        "a batch as large as the matrices": (whole_numbers(3, 3, 3),),
        "transposed": (whole_numbers(2, 3, 3).transpose(1, 2),),
        "an empty batch": (whole_numbers(0, 2, 2),),
    },
    laws=[Value(), SharesMemory()],
)
def batched_diagonal(matrices: torch.Tensor) -> torch.Tensor:
    """The diagonals of a batch of matrices, without a copy

    `matrices` is (…, N, N) with any number of batch dimensions. Return the diagonals, (…, N), as a view: it must share
    the memory of the input.

    ```python
    batched_diagonal(torch.arange(8.0).view(2, 2, 2))   # [[0., 3.], [4., 7.]]
    ```
    """
    return torch.einsum("...ii->...i", matrices)


@batched_diagonal.also_right
def with_diagonal(matrices):
    return matrices.diagonal(dim1=-2, dim2=-1)


@batched_diagonal.also_right
def with_strides(matrices):
    stride = (*matrices.stride()[:-2], matrices.stride(-2) + matrices.stride(-1))
    return matrices.as_strided(matrices.shape[:-1], stride)


@batched_diagonal.wrong("The numbers are right and they are a copy: indexing with ranges gathers, stacking copies too.")
def gathered(matrices):
    i = torch.arange(matrices.shape[-1])
    return matrices[..., i, i]


@batched_diagonal.wrong(
    "`ij->i` sums each row; the diagonal needs the same letter twice: `ii->i`. Two letters are two loops, one letter "
    "is one."
)
def rows_summed(matrices):
    return torch.einsum("...ij->...i", matrices)


@batched_diagonal.wrong(
    "`torch.diagonal` takes dimensions 0 and 1 unless told otherwise, and in a batch those are not the matrix."
)
def first_two_dimensions(matrices):
    return torch.diagonal(matrices)


@batched_diagonal.wrong("That is the trace: the result has lost `i`. Keep it on the right of the arrow.")
def trace_instead(matrices):
    return torch.einsum("...ii->...", matrices)
