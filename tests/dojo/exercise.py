"""A kata for the tests of the machinery: transpose a matrix without copying it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import Kata, kata
from blackbelt.dojo.laws import Law
from blackbelt.dojo.laws.sharing import SharesMemory
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, shapes, tensors


def make_kata(laws: Sequence[Law] = (Value(), SharesMemory()), changes: tuple[int, ...] = ()) -> Kata:
    """Return a fresh kata, so that a test may add to it."""

    @kata(
        minutes=1,
        belt="white",
        hints=("one", "two", "three"),
        cases=st.tuples(tensors(shapes(2, 2))),
        edge_cases=lambda: {"small": (numbers((2, 3)),), "empty": (numbers((0, 3)),)},
        laws=laws,
        changes=changes,
    )
    def turned(matrix: torch.Tensor) -> torch.Tensor:
        """Transpose."""
        return matrix.t()

    @turned.wrong("Reshaping keeps the order in memory.")
    def reshaped(matrix: torch.Tensor) -> torch.Tensor:
        return matrix.reshape(matrix.shape[1], matrix.shape[0])

    @turned.wrong("This copies.")
    def copied(matrix: torch.Tensor) -> torch.Tensor:
        return matrix.t().contiguous()

    return turned


def kata_of(
    reference: Callable[..., object], laws: Sequence[Law], *arguments: object, changes: tuple[int, ...] = ()
) -> Kata:
    """Return a kata with one edge case and nothing generated beyond it."""

    def reference_solution(*inputs: object) -> object:
        return reference(*inputs)

    return Kata(
        reference_solution,
        1,
        "white",
        ("", "", ""),
        st.just(arguments),
        lambda: {"case": arguments},
        list(laws),
        changes,
    )
