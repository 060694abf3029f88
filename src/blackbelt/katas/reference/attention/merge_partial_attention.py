"""Two halves of an attention make a whole."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.reference.attention._shared import attention, inputs


def _case(
    length: int, first: int, second: int, *, size: int = 4, heads: tuple[int, ...] = (), offsets: Any = (0.0, 0.0)
) -> tuple[Any, ...]:
    """Return two parts; an offset is added to all scores of a part, −inf hides it."""
    query, key, value = inputs(length, first + second, size, heads)
    arguments: list[torch.Tensor] = []
    for part, offset in zip((slice(0, first), slice(first, None)), offsets):
        out, lse = attention(query, key[..., part, :], value[..., part, :])
        arguments += [torch.zeros_like(out) if offset == -math.inf else out, lse + offset]
    return tuple(arguments)


def _budget(out_a: torch.Tensor, lse_a: torch.Tensor, *_: torch.Tensor) -> int:
    return 4 * (6 * out_a.numel() + 16 * lse_a.numel())


@kata(
    minutes=20,
    belt="green",
    hints=(
        (
            "A part's result is divided by that part's own sum of exponentials. Undo that, add, and divide by the "
            "sum of both. The log-sum-exp is the logarithm of just that sum."
        ),
        (
            "The weight of part a is exp(lse_a) / (exp(lse_a) + exp(lse_b)) = exp(lse_a − lse), where lse is that of "
            "both. `torch.logaddexp` gives it without overflow."
        ),
        (
            "Where neither part saw a key, lse is −inf, and −inf − (−inf) is NaN: subtract 0 there "
            "(`lse.masked_fill(lse == -math.inf, 0.0)`); both weights are then 0. Mind the last dimension of `out`."
        ),
    ),
    cases=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)).map(lambda drawn: _case(*drawn)),
    edge_cases=lambda: {
        "parts of two sizes": _case(3, 2, 5),
        "batch and heads": _case(3, 2, 2, heads=(2, 2)),
        "one part with far larger scores": _case(2, 2, 2, offsets=(0.0, 30.0)),
        "large scores": _case(2, 2, 3, offsets=(100.0, 100.0)),
        "small scores": _case(2, 2, 3, offsets=(-200.0, -200.0)),
        "a part that is hidden": _case(2, 2, 2, offsets=(-math.inf, 0.0)),
        "both parts hidden": _case(2, 2, 2, offsets=(-math.inf, -math.inf)),
        "many rows": _case(512, 2, 2, size=16),
    },
    laws=[Value(roundings=32), Calls(at_most=60, on=("many rows",)), Allocates(at_most=_budget, on=("many rows",))],
)
def merge_partial_attention(
    out_a: torch.Tensor, lse_a: torch.Tensor, out_b: torch.Tensor, lse_b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two halves of an attention make a whole.

    Somebody computed attention of the same queries over one part of the keys, and somebody else over the others: each
    returned a result `(…, L, D)` and the log-sum-exp of the scores `(…, L)`. Return what attention over all keys would
    have returned, result and log-sum-exp. Ring attention does this when the next device's keys come by, and split-K
    decoding at the end. A part in which a query saw no key has the result 0 and the log-sum-exp −inf there; so has the
    whole where that is so in both.

    ```python
    out, lse = merge_partial_attention(*attend(query, keys_here), *attend(query, keys_there))
    ```
    """
    lse = torch.logaddexp(lse_a, lse_b)
    shift = lse.masked_fill(lse == -math.inf, 0.0)
    weight_a, weight_b = ((part - shift).exp()[..., None] for part in (lse_a, lse_b))
    return weight_a * out_a + weight_b * out_b, lse


@merge_partial_attention.wrong(
    "It averages the two results. The part with the larger scores has to count for more: exp(lse) says how much."
)
def averages(out_a, lse_a, out_b, lse_b):
    return (out_a + out_b) / 2, torch.logaddexp(lse_a, lse_b)


@merge_partial_attention.wrong(
    "It adds the two results. Each is divided by its own part's sum already, so together they weigh 2."
)
def adds(out_a, lse_a, out_b, lse_b):
    return out_a + out_b, torch.logaddexp(lse_a, lse_b)


@merge_partial_attention.wrong(
    "It weighs by the log-sum-exps themselves. They are logarithms, and can be negative: weigh by their exponentials."
)
def weighs_by_logarithms(out_a, lse_a, out_b, lse_b):
    weight = (lse_a / (lse_a + lse_b))[..., None]
    return weight * out_a + (1 - weight) * out_b, torch.logaddexp(lse_a, lse_b)


@merge_partial_attention.wrong("It gives each part the weight of the other one.")
def swapped(out_a, lse_a, out_b, lse_b):
    out, lse = merge_partial_attention.reference(out_b, lse_a, out_a, lse_b)
    return out, lse


@merge_partial_attention.wrong(
    "It takes exp of the log-sum-exps as they are: with 100 that is infinite, with −200 it is 0, and ∞/∞ and 0/0 are "
    "NaN. Subtract first."
)
def overflows(out_a, lse_a, out_b, lse_b):
    weight_a, weight_b = lse_a.exp(), lse_b.exp()
    total = weight_a + weight_b
    return (weight_a[..., None] * out_a + weight_b[..., None] * out_b) / total[..., None], total.log()


@merge_partial_attention.wrong(
    "It weighs both relative to the larger log-sum-exp, and does not divide by the sum of the weights. The larger part "
    "then counts 1, and the other one on top."
)
def not_divided(out_a, lse_a, out_b, lse_b):
    largest = torch.maximum(lse_a, lse_b)
    a, b = (lse_a - largest).exp()[..., None], (lse_b - largest).exp()[..., None]
    return a * out_a + b * out_b, torch.logaddexp(lse_a, lse_b)


@merge_partial_attention.wrong(
    "Where neither part saw a key it subtracts −inf from −inf, which is NaN. The result is 0 there."
)
def nothing_is_nan(out_a, lse_a, out_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    return (lse_a - lse).exp()[..., None] * out_a + (lse_b - lse).exp()[..., None] * out_b, lse


@merge_partial_attention.wrong(
    "Its log-sum-exp is the larger of the two. It has to stand for the sum of both parts, or the next merge goes wrong."
)
def larger_logarithm(out_a, lse_a, out_b, lse_b):
    out, _ = merge_partial_attention.reference(out_a, lse_a, out_b, lse_b)
    return out, torch.maximum(lse_a, lse_b)


@merge_partial_attention.wrong(
    "It goes from row to row in Python. One exponential and one product take all rows at once: "
    "`weight[..., None] * out`."
)
def row_by_row(out_a, lse_a, out_b, lse_b):
    out, lse = torch.empty_like(out_a), torch.logaddexp(lse_a, lse_b)
    flat = [t.reshape(-1, *t.shape[lse.dim() :]) for t in (out_a, lse_a, out_b, lse_b)]
    rows = []
    for a, la, b, lb in zip(*flat):
        merged, _ = merge_partial_attention.reference(a, la, b, lb)
        rows.append(merged)
    return torch.stack(rows).reshape(out.shape), lse


@merge_partial_attention.also_right
def softmax_of_the_logarithms(out_a, lse_a, out_b, lse_b):
    lses = torch.stack([lse_a, lse_b])
    weights = lses.softmax(0).nan_to_num(0.0)
    return (weights[..., None] * torch.stack([out_a, out_b])).sum(0), lses.logsumexp(0)


@merge_partial_attention.also_right
def with_the_larger_one(out_a, lse_a, out_b, lse_b):
    largest = torch.maximum(lse_a, lse_b)
    largest = torch.where(largest == -math.inf, 0.0, largest)
    a, b = (lse_a - largest).exp(), (lse_b - largest).exp()
    total = (a + b)[..., None]
    out = (a[..., None] * out_a + b[..., None] * out_b) / torch.where(total == 0, 1.0, total)
    return out, largest + (a + b).log()
