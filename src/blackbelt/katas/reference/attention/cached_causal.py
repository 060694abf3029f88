"""New tokens, and a cache."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.reference.attention._shared import OneKernel, inputs


def _case(new: int, past: int, heads: int = 1, size: int = 4) -> tuple[Any, ...]:
    return inputs(new, past + new, size, (1, heads))


def _budget(query: torch.Tensor, key: torch.Tensor, _: torch.Tensor) -> int:
    heads, length = query.size(-3), query.size(-2)
    return 4 * (8 * query.numel() + (4 + heads) * length * key.size(-2))  # a mask for each head is granted


@kata(
    minutes=15,
    belt="green",
    hints=(
        "Which keys may the first of the new tokens see, if there are S keys and L of them belong to new tokens?",
        (
            "Query i is token S − L + i. So it sees the keys 0 … S − L + i: a triangle that is aligned at the lower "
            "right. `is_causal=True` aligns it at the upper left."
        ),
        (
            "`torch.ones(L, S, dtype=torch.bool).tril(diagonal=S - L)`, handed over as `attn_mask`: True means that "
            "the key takes part."
        ),
    ),
    cases=st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(1, 2)).map(lambda drawn: _case(*drawn)),
    edge_cases=lambda: {
        "one new token": _case(1, 5),
        "a prompt without a past": _case(4, 0),
        "three new tokens": _case(3, 2),
        "many heads": _case(64, 64, 16, 2),
        "a wide model": _case(1, 63, 16, 64),
        "a long past": _case(4, 2044, 2, 64),
    },
    laws=[
        Value(roundings=16),
        Allocates(at_most=_budget, on=("many heads", "a wide model", "a long past")),
        OneKernel(),
    ],
)
def cached_causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """New tokens, and a cache.

    A model generates, or reads a prompt in parts. Query `(batch, heads, L, D)` has the L newest tokens; key and value
    `(batch, heads, S, D)` have all S so far, from the cache and the newest. Return the attention of the newest tokens,
    each of which sees all tokens before it and itself. Let `F.scaled_dot_product_attention` do it, and do not compute
    rows that nobody asked for.

    ```python
    cached_causal(query, key, value)  # L = 1: a step of generation; L = S: a prompt; between them: both at once
    ```
    """
    length, keys = query.size(-2), key.size(-2)
    mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _mask(query, key):
    return torch.ones(query.size(-2), key.size(-2), dtype=torch.bool).tril(key.size(-2) - query.size(-2))


@cached_causal.wrong(
    "`is_causal=True` counts from the upper left: query 0 sees key 0 and nothing else. With a cache, query 0 is the "
    "newest token."
)
def causal_always(query, key, value):
    return scaled_dot_product_attention(query, key, value, is_causal=True)


@cached_causal.wrong(
    "It is causal for several tokens and sees everything for one. That is right for a prompt and for a step of "
    "generation. The second part of a prompt is several tokens with a past, and there `is_causal` is at the wrong end."
)
def causal_if_several(query, key, value):
    return scaled_dot_product_attention(query, key, value, is_causal=query.size(-2) > 1)


@cached_causal.wrong(
    "It has no mask. For one new token that is right; of several, the first must not see the ones after it."
)
def without_mask(query, key, value):
    return scaled_dot_product_attention(query, key, value)


@cached_causal.wrong(
    "Its mask says what to hide. For `scaled_dot_product_attention` True means that a key takes part; "
    "`nn.MultiheadAttention` has it the other way round."
)
def inverted(query, key, value):
    return scaled_dot_product_attention(query, key, value, attn_mask=~_mask(query, key))


@cached_causal.wrong("Its triangle stops one short: a token sees itself, too. The diagonal is S − L.")
def without_itself(query, key, value):
    mask = _mask(query, key).tril(key.size(-2) - query.size(-2) - 1)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


@cached_causal.wrong(
    "It computes all S rows and cuts off the newest. A cache is there so that old rows need not be computed again."
)
def all_rows(query, key, value):
    missing = query.new_zeros(*query.shape[:-2], key.size(-2) - query.size(-2), query.size(-1))
    out = scaled_dot_product_attention(torch.cat([missing, query], -2), key, value, is_causal=True)
    return out[..., key.size(-2) - query.size(-2) :, :]


@cached_causal.wrong(
    "It makes the triangle of all S × S pairs and keeps L rows of it. That mask alone grows with the square of the "
    "past: make the rows that are asked for, with `tril(S - L)`."
)
def whole_triangle(query, key, value):
    keys = key.size(-2)
    mask = torch.ones(keys, keys, dtype=torch.bool).tril()[keys - query.size(-2) :]
    return scaled_dot_product_attention(query, key, value, attn_mask=mask)


@cached_causal.wrong(
    "Its mask is floating point, and such a mask is added to the scores: 0 and 1 hide nothing. It has to be bool, or 0 "
    "and −inf."
)
def zeros_and_ones(query, key, value):
    return scaled_dot_product_attention(query, key, value, attn_mask=_mask(query, key).to(query.dtype))


@cached_causal.wrong(
    "It calls the kernel once for each new token. With a mask one call takes them all, and a prompt of a thousand "
    "tokens is one call."
)
def token_by_token(query, key, value):
    past = key.size(-2) - query.size(-2)
    rows = [
        scaled_dot_product_attention(query[:, :, i : i + 1], key[:, :, : past + i + 1], value[:, :, : past + i + 1])
        for i in range(query.size(-2))
    ]
    return torch.cat(rows, 2)


@cached_causal.wrong(
    "It writes out the formula. The numbers are right, and all scores are in memory: hand the mask to the fused "
    "function."
)
def by_the_formula(query, key, value):
    scores = query @ key.mT / math.sqrt(query.size(-1))
    return scores.masked_fill(~_mask(query, key), -math.inf).softmax(-1) @ value


@cached_causal.also_right
def with_a_bias(query, key, value):
    return scaled_dot_product_attention(query, key, value, attn_mask=causal_lower_right(query.size(-2), key.size(-2)))


@cached_causal.also_right
def by_positions(query, key, value):
    if query.size(-2) == 1:
        return scaled_dot_product_attention(query, key, value)
    keys = torch.arange(key.size(-2))
    return scaled_dot_product_attention(query, key, value, attn_mask=keys <= keys[-query.size(-2) :, None])


@cached_causal.also_right
def added_to_the_scores(query, key, value):
    bias = torch.zeros(query.size(-2), key.size(-2), dtype=query.dtype).masked_fill_(~_mask(query, key), -math.inf)
    return scaled_dot_product_attention(query, key, value, attn_mask=bias)
