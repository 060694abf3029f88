"""Masked softmax with fully masked rows."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.gradients import Gradcheck
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers, shapes, tensors


def _masked(scores: torch.Tensor, *rows: str) -> tuple[torch.Tensor, torch.Tensor]:
    return scores, torch.tensor([[letter == "1" for letter in row] for row in rows])


@kata(
    minutes=25,
    belt="green",
    hints=(
        "What does softmax return for a row of nothing but -inf, and what does its backward make of that?",
        "Fill with a finite number so low that `exp` gives exactly 0 beside any allowed score. The dtype knows it.",
        (
            "`scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)` is right but for rows without any "
            "allowed place, which come out uniform. A second `masked_fill` settles those, and its gradient is 0."
        ),
    ),
    cases=st.builds(
        lambda scores, seed: (scores, numbers(tuple(scores.shape[-1:]), torch.bool, seed)),
        tensors(shapes(1, 3, 1, 4)),
        st.integers(0, 99),
    ),
    edge_cases=lambda: {
        "some masked": _masked(numbers((2, 3)), "110", "011"),
        "a row fully masked": _masked(numbers((2, 3)), "110", "000"),
        "one mask for a batch": _masked(numbers((2, 2, 3)), "101", "000"),
        "a masked score that dominates": _masked(torch.tensor([[1.0, 2.0, 300.0]]), "110"),
        "large scores": _masked(numbers((1, 3)) + 200, "110"),
        "half precision": _masked(numbers((2, 3), torch.float16), "110", "000"),
        "everything allowed": _masked(numbers((2, 3)), "111", "111"),
    },
    laws=[Value(), Gradcheck(on=("a row fully masked",))],
)
def masked_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Masked softmax with fully masked rows

    Return the softmax over the last dimension of `scores`, taken over the places where `mask` is True and 0 elsewhere.
    `mask` broadcasts to `scores`. A row with no place allowed is all zeros. No NaN, neither in the result nor in the
    gradient; any floating-point dtype.
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0)


@masked_softmax.wrong(
    "A row of nothing but -inf has no largest score: -inf minus -inf is NaN, and so is the whole row."
)
def _minus_infinity(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~mask, float("-inf")).softmax(-1)


@masked_softmax.wrong("The NaN is wiped from the result and not from the gradient: 0 times NaN is NaN on the way back.")
def _wiped_afterwards(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    bias = torch.zeros_like(scores).masked_fill(~mask, float("-inf"))
    return (scores + bias).softmax(-1).nan_to_num(0.0)


@masked_softmax.wrong(
    "A low finite fill turns a fully masked row into a uniform one: it attends everywhere it may not."
)
def _uniform(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)


@masked_softmax.wrong("Masking after the softmax leaves rows that do not add up to 1: masked scores took their share.")
def _masked_afterwards(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.softmax(-1) * mask


@masked_softmax.wrong(
    "Renormalizing after the softmax fails when a masked score takes all of it: what is left rounds to 0."
)
def _renormalized(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = scores.softmax(-1) * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


@masked_softmax.wrong("Here True means allowed. In yours it means hidden.")
def _inverted(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return scores.masked_fill(mask, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(mask, 0)


@masked_softmax.wrong(
    "`exp` of a score above 88 is infinite in float32. Softmax subtracts the row's maximum first; so must you."
)
def _not_shifted(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = scores.exp() * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


@masked_softmax.also_right
def _empty_rows_opened(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    opened = mask | ~mask.any(-1, keepdim=True)
    return scores.masked_fill(~opened, float("-inf")).softmax(-1) * mask


@masked_softmax.also_right
def _chosen_by_where(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, scores, float("-inf")).softmax(-1).nan_to_num(0.0)
