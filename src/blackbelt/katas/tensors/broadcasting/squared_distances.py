"""Pairwise squared distances under a memory budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from hypothesis import strategies as st

from blackbelt.dojo.describe import describe
from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, tensors

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class NeverNegative(Law):
    """No element of the result is below 0."""

    why: ClassVar[str] = "The square root of a distance of -1e-7 is NaN, and it comes from points that coincide."

    def check(self, trial: Trial) -> None:
        if trial.result.numel() and trial.result.min() < 0:
            raise LawBroken("A squared distance is negative", "0 or more", describe(trial.result.min()))


def _budget(x: torch.Tensor, y: torch.Tensor) -> int:
    return x.element_size() * (4 * len(x) * len(y) + 4 * (len(x) + len(y)) * (x.shape[1] + 1))


@kata(
    minutes=30,
    belt="blue",
    hints=(
        "Expand the square: |x - y|² = |x|² + |y|² - 2 x·y. Which of the three terms needs both N and M?",
        (
            "x·y for all pairs is one matrix product, (N, D) by (D, M): nothing of size N·M·D exists. Far from the "
            "origin the three terms are huge and their difference small; move the points before you multiply."
        ),
        (
            "Subtract the mean of `x` from both. `torch.addmm(squares, x, y.mT, alpha=-2)` adds the product to the "
            "broadcast sum of squares; rounding may leave -1e-7, so clamp at 0."
        ),
    ),
    cases=st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4)).flatmap(
        lambda n: st.tuples(tensors((n[0], n[2])), tensors((n[1], n[2])))
    ),
    edge_cases=lambda: {
        "three against two": (numbers((3, 2)), numbers((2, 2), seed=1)),
        "against itself": (numbers((40, 16)), numbers((40, 16))),
        "few points far from the origin": (numbers((8, 3)) + 1000, numbers((9, 3), seed=1) + 1000),
        "many points far from the origin": (numbers((40, 3)) + 1000, numbers((30, 3), seed=1) + 1000),
        "many features": (numbers((96, 16)), numbers((64, 16), seed=1)),
        "no points": (numbers((0, 3)), numbers((4, 3))),
    },
    laws=[Value(), NeverNegative(), Allocates(at_most=_budget)],
)
def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Pairwise squared distances under a memory budget

    Return the (N, M) squared Euclidean distances between the rows of `x` (N, D) and of `y` (M, D). The budget is four
    results, 4·N·M elements, and four copies of the inputs: an (N, M, D) intermediate does not fit. Distances are never
    negative, and stay right for points around (1000, 1000).
    """
    center = x.mean(0)
    x, y = x - center, y - center
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.addmm(squares, x, y.mT, alpha=-2).clamp_(min=0)


@squared_distances.wrong(
    "`x[:, None] - y` is an (N, M, D) tensor: D times the memory of the answer. Expand the square."
)
def _cube(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, None] - y).square().sum(-1)


@squared_distances.wrong(
    "Far from the origin |x|² is a million and the distance is 2: float32 keeps 7 digits. Center first."
)
def _not_centered(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2).clamp_(min=0)


@squared_distances.wrong(
    "From 26 rows on `torch.cdist` expands the square too, without centering: right for few points, wrong for many."
)
def _by_cdist(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y).square()


@squared_distances.wrong("Rounding leaves tiny negative distances where points coincide: clamp at 0.")
def _negative(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    center = x.mean(0)
    x, y = x - center, y - center
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2)


@squared_distances.wrong("These are distances; the squared ones were asked for.")
def _rooted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


@squared_distances.also_right
def _feature_by_feature(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(len(x), len(y))
    for column, other in zip(x.T, y.T, strict=True):
        total += (column[:, None] - other).square_()
    return total


@squared_distances.also_right
def _row_by_row(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    result = x.new_empty(len(x), len(y))
    for row, out in zip(x, result, strict=True):
        torch.sum((row - y).square_(), -1, out=out)
    return result
