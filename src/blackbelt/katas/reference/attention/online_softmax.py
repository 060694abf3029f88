"""Softmax in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.attention._shared import OnePass


def _case(rows: int, sizes: tuple[int, ...], scale: float = 3.0, offset: float = 0.0) -> tuple[Any, ...]:
    return ([scale * numbers((rows, size), seed=i) + offset for i, size in enumerate(sizes)],)


def _hidden(rows: int, *hidden: bool) -> tuple[Any, ...]:
    return (
        [torch.full((rows, 3), -math.inf) if gone else numbers((rows, 3), seed=i) for i, gone in enumerate(hidden)],
    )


def _budget(chunks: list[torch.Tensor]) -> int:
    return 4 * (4 * max(chunk.numel() for chunk in chunks) + 64 * len(chunks[0]))


@kata(
    minutes=15,
    belt="green",
    hints=(
        (
            "Two numbers per row are enough: the largest score so far, and the sum of the exponentials relative to it. "
            "What is to be done with the sum when a larger score comes?"
        ),
        (
            "Every term of the sum is `exp(x - old)` and should be `exp(x - new)`: multiply by `exp(old - new)`. Where "
            "a row has seen nothing but −inf, `new` is −inf as well, and −inf − (−inf) is NaN."
        ),
        (
            "Start with −inf and 0. `larger = torch.maximum(maximum, chunk.amax(-1))`; `shift` is `larger`, and 0 "
            "where that is −inf; `total = total * (maximum - shift).exp() + (chunk - shift[:, None]).exp().sum(-1)`."
        ),
    ),
    cases=st.tuples(
        st.integers(1, 4),
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
        st.sampled_from((1.0, 30.0)),
        st.sampled_from((0.0, -200.0)),
    ).map(lambda drawn: _case(*drawn)),
    edge_cases=lambda: {
        "chunks with a growing maximum": ([torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0]]), torch.tensor([[5.0]])],),
        "chunks with a falling maximum": ([torch.tensor([[5.0, 0.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0]])],),
        "large scores": _case(2, (2, 3), 1.0, 100.0),
        "negative scores": _case(2, (2, 3), 1.0, -50.0),
        "very negative scores": _case(2, (2, 3), 1.0, -2000.0),
        "a hidden first chunk": _hidden(2, True, False),
        "a hidden later chunk": _hidden(2, False, True),
        "a row that is hidden altogether": _hidden(2, True, True),
        "a long row": _case(8, (256,) * 32),
    },
    laws=[Value(roundings=32), OnePass(), Allocates(at_most=_budget, on=("a long row",))],
)
def online_softmax(chunks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax in one pass.

    The scores of some rows come in chunks `(rows, n)`, one after the other, and each chunk once. Return two tensors of
    shape `(rows,)`: the largest score of each row, and the sum over the row of `exp(score - largest)`.

    ```python
    maximum, total = online_softmax(iter(scores.split(256, -1)))
    scores.softmax(-1)  # is (scores - maximum[:, None]).exp() / total[:, None]
    ```

    A score of −inf is hidden and counts nothing. A row in which all are hidden has the maximum −inf and the sum 0. Hold
    no more than a chunk: four times the bytes of the largest are granted.
    """
    maximum, total = torch.tensor(-math.inf), torch.tensor(0.0)
    for chunk in chunks:
        larger = torch.maximum(maximum, chunk.amax(-1))
        shift = larger.masked_fill(larger == -math.inf, 0.0)
        total = total * (maximum - shift).exp() + (chunk - shift[:, None]).exp().sum(-1)
        maximum = larger
    return maximum, total


def _shifted(maximum: torch.Tensor) -> torch.Tensor:
    return maximum.masked_fill(maximum == -math.inf, 0.0)


@online_softmax.wrong(
    "It puts the chunks together and looks at the whole row. The point is that the row is never there as one."
)
def whole_row(chunks):
    row = torch.cat(list(chunks), -1)
    maximum = row.amax(-1)
    return maximum, (row - _shifted(maximum)[:, None]).exp().sum(-1)


@online_softmax.wrong(
    "It goes over the chunks twice, for the maximum and then for the sum. The second time, nothing is left."
)
def two_passes(chunks):
    maximum = torch.tensor(-math.inf)
    for chunk in chunks:
        maximum = torch.maximum(maximum, chunk.amax(-1))
    total = torch.tensor(0.0)
    for chunk in chunks:
        total = total + (chunk - _shifted(maximum)[:, None]).exp().sum(-1)
    return maximum, total


@online_softmax.wrong(
    "It leaves the sum as it was when the maximum grows. What was added before is relative to the old maximum: "
    "multiply it by exp(old − new)."
)
def not_corrected(chunks):
    maximum, total = torch.tensor(-math.inf), torch.tensor(0.0)
    for chunk in chunks:
        maximum = torch.maximum(maximum, chunk.amax(-1))
        total = total + (chunk - _shifted(maximum)[:, None]).exp().sum(-1)
    return maximum, total


@online_softmax.wrong(
    "It takes each chunk relative to that chunk's own maximum, and adds the sums up. They are in different units."
)
def own_maximum(chunks):
    maximum, total = torch.tensor(-math.inf), torch.tensor(0.0)
    for chunk in chunks:
        own = chunk.amax(-1)
        maximum = torch.maximum(maximum, own)
        total = total + (chunk - _shifted(own)[:, None]).exp().sum(-1)
    return maximum, total


@online_softmax.wrong(
    "It corrects in the wrong direction: the terms shrink when the maximum grows, so the factor is exp(old − new)."
)
def upside_down(chunks):
    maximum, total = None, None
    for chunk in chunks:
        own = chunk.amax(-1)
        larger = own if maximum is None else torch.maximum(maximum, own)
        added = (chunk - _shifted(larger)[:, None]).exp().sum(-1)
        total = added if maximum is None else total * (_shifted(larger) - _shifted(maximum)).exp() + added
        maximum = larger
    return maximum, total


@online_softmax.wrong(
    "It subtracts −inf from −inf. Where a row has seen only hidden scores, that is NaN, and the NaN stays in the sum: "
    "subtract 0 there."
)
def hidden_is_nan(chunks):
    maximum, total = torch.tensor(-math.inf), torch.tensor(0.0)
    for chunk in chunks:
        larger = torch.maximum(maximum, chunk.amax(-1))
        total = total * (maximum - larger).exp() + (chunk - larger[:, None]).exp().sum(-1)
        maximum = larger
    return maximum, total


@online_softmax.wrong(
    "It puts a large negative number in the place of −inf. In a row that is hidden altogether every score is then the "
    "maximum, and counts 1: the row looks at everything it must not see."
)
def clamped(chunks):
    return online_softmax.reference(chunk.clamp(min=torch.finfo(chunk.dtype).min) for chunk in chunks)


@online_softmax.wrong(
    "It takes exp of the scores as they are, and divides at the end. exp(100) is infinite in float32 already."
)
def exp_of_scores(chunks):
    maximum, total = torch.tensor(-math.inf), torch.tensor(0.0)
    for chunk in chunks:
        maximum = torch.maximum(maximum, chunk.amax(-1))
        total = total + chunk.exp().sum(-1)
    return maximum, total / _shifted(maximum).exp()


@online_softmax.wrong(
    "Its maximum starts at 0, so in a row of negative scores it stays there: with −50 everywhere the sum is 10⁻²², and "
    "with −200 it is 0. Start at −inf."
)
def starts_at_zero(chunks):
    maximum, total = torch.tensor(0.0), torch.tensor(0.0)
    for chunk in chunks:
        larger = torch.maximum(maximum, chunk.amax(-1))
        total = total * (maximum - larger).exp() + (chunk - larger[:, None]).exp().sum(-1)
        maximum = larger
    return maximum, total


@online_softmax.wrong(
    "It keeps the logarithm of the sum, and takes the maximum off at the end. Around −2000 neighboring float32 numbers "
    "are 0.0001 apart, and so the sum has four digits left. Keep it relative to the maximum all along."
)
def through_the_logarithm(chunks):
    maximum, logarithm = torch.tensor(-math.inf), torch.tensor(-math.inf)
    for chunk in chunks:
        maximum = torch.maximum(maximum, chunk.amax(-1))
        logarithm = torch.logaddexp(logarithm, chunk.logsumexp(-1))
    return maximum, (logarithm - _shifted(maximum)).exp()


@online_softmax.also_right
def chunks_joined_at_the_end(chunks):
    pairs = []
    for chunk in chunks:
        own = chunk.amax(-1)
        pairs.append((own, (chunk - _shifted(own)[:, None]).exp().sum(-1)))
    maxima, totals = (torch.stack(column) for column in zip(*pairs))
    maximum = maxima.amax(0)
    return maximum, (totals * (maxima - _shifted(maximum)).exp()).sum(0)
