"""Attention, a few keys at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.flops import Flops
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.reference.attention._shared import attention, inputs


def _case(length: int, keys: int, chunk_size: int, factor: float = 1.0, **more: Any) -> tuple[Any, ...]:
    return (*inputs(length, keys, factor=factor, **more), chunk_size)


def _budget(query: torch.Tensor, _: torch.Tensor, value: torch.Tensor, chunk_size: int) -> int:
    rows = query.numel() // query.size(-1)
    return 4 * (6 * rows * value.size(-1) + 4 * rows * chunk_size + 64 * rows)


def _two_products(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: int) -> int:
    rows = query.numel() // query.size(-1)
    return 2 * rows * key.size(-2) * (query.size(-1) + value.size(-1))


@kata(
    minutes=25,
    belt="blue",
    hints=(
        (
            "The result of a row is a sum over the keys: of exp(score − m) · value, divided by the sum of "
            "exp(score − m). Both sums can be kept while you walk over the keys."
        ),
        (
            "For each chunk of keys and values: its scores, the larger maximum, `correction = exp(old - new)`. What "
            "was added up so far, sum and result, is multiplied by it. Divide once, at the end."
        ),
        (
            "`result = result * correction + weights @ v` with `weights = (scores - larger).exp()`; after the loop "
            "`return result / total, (maximum + total.log()).squeeze(-1)`. Keep `maximum` and `total` as (…, L, 1)."
        ),
    ),
    cases=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 4), st.sampled_from((1.0, 20.0))).map(
        lambda drawn: _case(*drawn)
    ),
    edge_cases=lambda: {
        "even chunks": _case(3, 4, 2),
        "an uneven last chunk": _case(3, 5, 2),
        "one chunk": _case(2, 3, 8),
        "large scores": _case(3, 6, 2, 200.0),
        "batch and heads": _case(3, 5, 2, heads=(2, 2)),
        "many keys": _case(64, 2048, 32, size=8),
    },
    laws=[
        Value(roundings=16),
        Forbids({"torch.nn.functional.scaled_dot_product_attention": "here you write what it does"}),
        Allocates(at_most=_budget, on=("many keys",)),
        Flops(at_most=_two_products, on=("many keys",)),
    ],
)
def attention_forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, chunk_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention, a few keys at a time.

    Return `softmax(query @ key.mT / √D) @ value`, shape `(…, L, D)`, and the log-sum-exp of every query's scaled
    scores, shape `(…, L)`, from query `(…, L, D)` and key and value `(…, S, D)`. Walk over the keys, `chunk_size` at a
    time: besides a few tensors of the size of the result, four of the size `(…, L, chunk_size)` are granted. There is
    no mask, and no backward: that is another kata.

    ```python
    out, lse = attention_forward(query, key, value, chunk_size=256)
    ```
    """
    scale = 1 / math.sqrt(query.size(-1))
    maximum = query.new_full((*query.shape[:-1], 1), -math.inf)
    total, result = torch.zeros_like(maximum), torch.zeros_like(query)
    for k, v in zip(key.split(chunk_size, -2), value.split(chunk_size, -2)):
        scores = (scale * query) @ k.mT
        larger = torch.maximum(maximum, scores.amax(-1, keepdim=True))
        correction, weights = (maximum - larger).exp(), (scores - larger).exp()
        total = total * correction + weights.sum(-1, keepdim=True)
        result = result * correction + weights @ v
        maximum = larger
    return result / total, (maximum + total.log()).squeeze(-1)


def _chunks(query, key, value, chunk_size, scale=None):
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    for k, v in zip(key.split(chunk_size, -2), value.split(chunk_size, -2)):
        yield scale * (query @ k.mT), v


@attention_forward.wrong(
    "It makes the scores of all keys at once. The numbers are right, and so is every formula in it; this matrix is "
    "what you were to avoid."
)
def whole_matrix(query, key, value, chunk_size):
    return attention(query, key, value)


@attention_forward.wrong(
    "It computes every score twice, once for the log-sum-exp and once for the weights. It holds little, and multiplies "
    "half as much again as it has to: with a correction, one pass is enough."
)
def two_passes(query, key, value, chunk_size):
    parts = [scores.logsumexp(-1) for scores, _ in _chunks(query, key, value, chunk_size)]
    lse = torch.stack(parts).logsumexp(0)
    out = torch.zeros_like(query)
    for scores, v in _chunks(query, key, value, chunk_size):
        out += (scores - lse[..., None]).exp() @ v
    return out, lse


@attention_forward.wrong("It calls the function that does it. Here you write what that function does.")
def calls_pytorch(query, key, value, chunk_size):
    parts = [scores.logsumexp(-1) for scores, _ in _chunks(query, key, value, chunk_size)]
    return torch.nn.functional.scaled_dot_product_attention(query, key, value), torch.stack(parts).logsumexp(0)


@attention_forward.wrong(
    "It takes a softmax in each chunk and averages the results. A chunk with small scores then counts as much as one "
    "with large ones."
)
def average_of_chunks(query, key, value, chunk_size):
    results, logarithms = [], []
    for scores, v in _chunks(query, key, value, chunk_size):
        results.append(scores.softmax(-1) @ v)
        logarithms.append(scores.logsumexp(-1))
    return torch.stack(results).mean(0), torch.stack(logarithms).logsumexp(0)


@attention_forward.wrong(
    "It corrects the sum when a larger maximum comes, and not the result. Both are sums relative to the old maximum."
)
def result_not_corrected(query, key, value, chunk_size):
    maximum = query.new_full((*query.shape[:-1], 1), -math.inf)
    total, result = torch.zeros_like(maximum), torch.zeros_like(query)
    for scores, v in _chunks(query, key, value, chunk_size):
        larger = torch.maximum(maximum, scores.amax(-1, keepdim=True))
        weights = (scores - larger).exp()
        total = total * (maximum - larger).exp() + weights.sum(-1, keepdim=True)
        result = result + weights @ v
        maximum = larger
    return result / total, (maximum + total.log()).squeeze(-1)


@attention_forward.wrong(
    "It divides by the sum so far in every round. What was divided before is divided again: divide once, after the "
    "last chunk."
)
def divides_every_time(query, key, value, chunk_size):
    maximum = query.new_full((*query.shape[:-1], 1), -math.inf)
    total, result = torch.zeros_like(maximum), torch.zeros_like(query)
    for scores, v in _chunks(query, key, value, chunk_size):
        larger = torch.maximum(maximum, scores.amax(-1, keepdim=True))
        correction, weights = (maximum - larger).exp(), (scores - larger).exp()
        total = total * correction + weights.sum(-1, keepdim=True)
        result = (result * correction + weights @ v) / total
        maximum = larger
    return result, (maximum + total.log()).squeeze(-1)


@attention_forward.wrong(
    "It takes exp of the scores without a maximum. Sums of exponentials need no correction then, and overflow."
)
def without_maximum(query, key, value, chunk_size):
    total, result = 0, 0
    for scores, v in _chunks(query, key, value, chunk_size):
        weights = scores.exp()
        total = total + weights.sum(-1, keepdim=True)
        result = result + weights @ v
    return result / total, total.log().squeeze(-1)


@attention_forward.wrong("It forgets the scale: scores are divided by the root of the head size, √D, before softmax.")
def without_scale(query, key, value, chunk_size):
    return attention_forward.reference(query * math.sqrt(query.size(-1)), key, value, chunk_size)


@attention_forward.wrong(
    "Its log-sum-exp is the logarithm of the sum alone. That sum is relative to the maximum: add the maximum again."
)
def logarithm_of_the_sum(query, key, value, chunk_size):
    out, lse = attention_forward.reference(query, key, value, chunk_size)
    largest = None
    for scores, _ in _chunks(query, key, value, chunk_size):
        largest = scores.amax(-1) if largest is None else torch.maximum(largest, scores.amax(-1))
    return out, lse - largest


@attention_forward.also_right
def parts_joined(query, key, value, chunk_size):
    out, lse = None, None
    for scores, v in _chunks(query, key, value, chunk_size):
        own = scores.logsumexp(-1)
        part = scores.sub_(own[..., None]).exp_() @ v
        if out is None:
            out, lse = part, own
            continue
        joined = torch.logaddexp(lse, own)
        out = out * (lse - joined).exp()[..., None] + part * (own - joined).exp()[..., None]
        lse = joined
    return out, lse


@attention_forward.also_right
def tile_by_tile(query, key, value, chunk_size):
    pairs = [attention_forward.reference(rows, key, value, chunk_size) for rows in query.split(chunk_size, -2)]
    return torch.cat([out for out, _ in pairs], -2), torch.cat([lse for _, lse in pairs], -1)
