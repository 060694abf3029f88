"""Query heads that share their keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.reference.attention._shared import inputs

LARGE = ("a step of generation", "one head of keys, two sequences", "several queries")


def _case(batch: int, groups: int, members: int, length: int = 1, keys: int = 3, size: int = 4) -> tuple[Any, ...]:
    query, _, _ = inputs(length, keys, size, (batch, groups * members))
    _, key, value = inputs(length, keys, size, (batch, groups), seed=3)
    return query, key, value


def _budget(query: torch.Tensor, key: torch.Tensor, _: torch.Tensor) -> int:
    scores = query.numel() // query.size(-1) * key.size(-2)
    return 4 * (4 * scores + 4 * query.numel())


@kata(
    minutes=20,
    belt="green",
    hints=(
        "Several query heads look at the same keys. How does that differ from several queries of one head?",
        (
            "For one head of keys, the queries of its H/K heads are just more rows: (batch, H, L, D) is "
            "(batch, K, H/K · L, D) in memory already. Then it is ordinary attention with K heads."
        ),
        (
            "`rows = query.reshape(batch, K, -1, D)`; `(rows @ key.mT / √D).softmax(-1) @ value`, and "
            "`.reshape(query.shape)`. Head h belongs to the keys h // (H/K), so members of a group are side by side."
        ),
    ),
    cases=st.tuples(*[st.integers(1, 3)] * 5).map(lambda drawn: _case(*drawn)),
    edge_cases=lambda: {
        "two groups of three": _case(1, 2, 3),
        "three groups of two": _case(2, 3, 2, 2),
        "one head of keys": _case(2, 1, 4),
        "groups of one": _case(1, 3, 1, 2),
        "one head of keys, one sequence": _case(1, 1, 8, 1, 512, 64),
        "a step of generation": _case(2, 2, 8, 1, 512, 64),
        "one head of keys, two sequences": _case(2, 1, 8, 1, 512, 64),
        "several queries": _case(2, 2, 4, 2, 256, 64),
    },
    laws=[
        Value(roundings=16),
        Forbids(
            {"torch.nn.functional.scaled_dot_product_attention": "here you find out what it does for `enable_gqa=True`"}
        ),
        Calls(at_most=30, on=("a step of generation",)),
        Allocates(at_most=_budget, on=(*LARGE, "one head of keys, one sequence")),
    ],
)
def grouped_query(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Query heads that share their keys.

    Query `(batch, H, L, D)` has H heads, key and value `(batch, K, S, D)` have K, and K divides H: the first H/K query
    heads share the first head of keys, the next ones the second, and so on. Return `softmax(q kᵀ / √D) v`,
    `(batch, H, L, D)`, without a mask. No key is to be copied: four times the bytes of the scores are granted, which is
    little beside repeated keys.

    ```python
    query, key, value = torch.randn(1, 32, 1, 64), torch.randn(1, 4, 4096, 64), torch.randn(1, 4, 4096, 64)
    grouped_query(query, key, value)  # scaled_dot_product_attention(query, key, value, enable_gqa=True)
    ```
    """
    rows = query.reshape(query.size(0), key.size(1), -1, query.size(-1))
    scores = (rows / math.sqrt(query.size(-1))) @ key.mT
    return (scores.softmax(-1) @ value).reshape(query.shape)


def _plain(query, key, value):
    return ((query / math.sqrt(query.size(-1))) @ key.mT).softmax(-1) @ value


@grouped_query.wrong(
    "It repeats the keys for each query head. The numbers are right, and the cache is as large as without groups: give "
    "the query another shape instead."
)
def repeats(query, key, value):
    members = query.size(1) // key.size(1)
    return _plain(query, key.repeat_interleave(members, 1), value.repeat_interleave(members, 1))


@grouped_query.wrong(
    "`repeat` puts the heads in the order 0 1 0 1. Query heads that share keys are side by side, 0 0 1 1: that is "
    "`repeat_interleave`, and copies as well."
)
def repeats_in_another_order(query, key, value):
    members = query.size(1) // key.size(1)
    return _plain(query, key.repeat(1, members, 1, 1), value.repeat(1, members, 1, 1))


@grouped_query.wrong(
    "It expands the keys to the query heads. That is free until somebody reshapes them, and matmul does: it folds all "
    "batch dimensions into one, and where there is more than one head of keys or one sequence, that is a copy."
)
def broadcasts(query, key, value):
    rows = query.unflatten(1, (key.size(1), -1))
    return _plain(rows, key[:, :, None], value[:, :, None]).flatten(1, 2)


@grouped_query.wrong(
    "It splits the query heads as (members, groups). Members of a group are side by side, so it is (groups, members)."
)
def members_first(query, key, value):
    batch, _, length, size = query.shape
    rows = query.unflatten(1, (-1, key.size(1))).transpose(1, 2).reshape(batch, key.size(1), -1, size)
    out = _plain(rows, key, value).unflatten(2, (-1, length))
    return out.transpose(1, 2).reshape(query.shape)


@grouped_query.wrong(
    "It averages the query heads of a group into one. They share keys; each has a question of its own, and an answer."
)
def averages(query, key, value):
    members = query.size(1) // key.size(1)
    out = _plain(query.unflatten(1, (key.size(1), -1)).mean(2), key, value)
    return out.repeat_interleave(members, 1)


@grouped_query.wrong(
    "It goes from head to head in Python. One product can take them all: query heads that share keys are more rows."
)
def head_by_head(query, key, value):
    members = query.size(1) // key.size(1)
    heads = [_plain(query[:, h], key[:, h // members], value[:, h // members]) for h in range(query.size(1))]
    return torch.stack(heads, 1)


@grouped_query.wrong("It forgets to divide the scores by √D.")
def without_scale(query, key, value):
    rows = query.reshape(query.size(0), key.size(1), -1, query.size(-1))
    return ((rows @ key.mT).softmax(-1) @ value).reshape(query.shape)


@grouped_query.wrong(
    "It calls the function that does it. Here you find out how: which shape of the query makes groups into rows?"
)
def calls_pytorch(query, key, value):
    return scaled_dot_product_attention(query, key, value, enable_gqa=True)


@grouped_query.also_right
def with_bmm(query, key, value):
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    rows = query.reshape(keys.size(0), -1, query.size(-1)) / math.sqrt(query.size(-1))
    return torch.bmm(torch.bmm(rows, keys.mT).softmax(-1), values).reshape(query.shape)


@grouped_query.also_right
def with_einsum(query, key, value):
    rows = query.unflatten(1, (key.size(1), -1)) / math.sqrt(query.size(-1))
    scores = torch.einsum("bkgld,bksd->bkgls", rows, key)
    return torch.einsum("bkgls,bksd->bkgld", scores.softmax(-1), value).flatten(1, 2)
