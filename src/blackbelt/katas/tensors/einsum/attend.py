"""Attention, in two contractions."""

from __future__ import annotations

import math

import einops
import torch

from blackbelt.dojo.kata import Arguments, kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.tensors.einsum._shared import of_sizes


def _attention(batch: int, heads: int, queries: int, keys: int, channels: int) -> Arguments:
    shapes = [(batch, heads, length, channels) for length in (queries, keys, keys)]
    return tuple(numbers(shape, seed=seed) for seed, shape in enumerate(shapes))


def _attention_budget(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return 4 * (2 * scores + 2 * query.numel())


@kata(
    minutes=15,
    belt="yellow",
    hints=(
        (
            "Two contractions. Write down the letters of the scores first: which of b, h, q, k, d does one "
            "score depend on?"
        ),
        (
            "Scores are `bhqk`: `d` is the only letter that disappears. Divide by the square root of its size, softmax "
            "over `k`."
        ),
        (
            '`torch.einsum("bhqd,bhkd->bhqk", …)`, then softmax, then `"bhqk,bhkd->bhqd"`. The key needs no '
            "transposing: its letters say where its dimensions go."
        ),
    ),
    cases=of_sizes("bhqd", "bhkd", "bhkd", whole=False),
    edge_cases=lambda: {
        "two examples, three heads": _attention(2, 3, 4, 5, 6),
        "as many queries as keys": _attention(2, 2, 4, 4, 3),
        "one key": _attention(1, 2, 3, 1, 4),
        "long sequences": _attention(2, 2, 32, 48, 64),
    },
    laws=[
        Value(),
        Forbids(
            {
                "torch.nn.functional.scaled_dot_product_attention": "write the two contractions yourself.",
                "aten::clone": "that is a copy, and neither contraction needs one.",
            }
        ),
        Allocates(at_most=_attention_budget),
    ],
)
def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention, in two contractions

    `query` is (batch, head, query, channel); `key` and `value` are (batch, head, key, channel). All are contiguous.

    Return `softmax(query · key / √channel) · value` as (batch, head, query, channel), the softmax taken over the keys.
    Copy nothing: no transposed key, no expanded product. The budget is two score matrices and two results.

    ```python
    attend(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4))   # all ones: a mean of the values
    ```
    """
    scores = torch.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.also_right
def with_matmul(query, key, value):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return torch.softmax(scores, dim=3) @ value


@attend.also_right
def with_names(query, key, value):
    scores = einops.einsum(query, key, "batch head query channel, batch head key channel -> batch head query key")
    weights = (scores * query.shape[-1] ** -0.5).softmax(dim=-1)
    return einops.einsum(weights, value, "batch head query key, batch head key channel -> batch head query channel")


@attend.wrong(
    "The scores are not divided by the square root of the channels: with 64 channels they are eight times too large, "
    "and the softmax looks at one key only."
)
def unscaled(query, key, value):
    return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", query, key).softmax(-1), value)


@attend.wrong(
    "The scores are divided by the number of channels, not by its square root. The variance of a sum of d products is "
    "d, so its size is √d."
)
def scaled_by_channels(query, key, value):
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1]
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.wrong(
    "The softmax runs over the queries. Each query must spread a weight of one over the keys: softmax over `k`, the "
    "last dimension of the scores."
)
def softmax_over_queries(query, key, value):
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-2), value)


@attend.wrong(
    "The scores have lost `b`: einsum added the examples of the batch together, and every example now attends with "
    "the same weights. The shapes come out right, so nothing told you."
)
def batch_lost(query, key, value):
    scores = torch.einsum("bhqd,bhkd->hqk", query, key) / math.sqrt(query.shape[-1])
    return torch.einsum("hqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.wrong("The key is transposed and copied first. Einsum (and `@`) take it as it lies: a transpose is a view.")
def transposed_copy(query, key, value):
    scores = query @ key.transpose(-1, -2).contiguous() / math.sqrt(query.shape[-1])
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)


@attend.wrong(
    "The product of every query with every key is written out channel by channel before it is summed: as many times "
    "the memory of the scores as there are channels."
)
def broadcast_and_sum(query, key, value):
    scores = (query.unsqueeze(-2) * key.unsqueeze(-3)).sum(-1) / math.sqrt(query.shape[-1])
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), value)
