"""The backward of attention, without its matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers
from blackbelt.katas.reference.attention._shared import AgreesWithAutograd, attention, inputs


def _case(length: int, keys: int, chunk_size: int, factor: float = 1.0, **more: Any) -> tuple[Any, ...]:
    query, key, value = inputs(length, keys, factor=factor, **more)
    out, lse = attention(query, key, value)
    return (query, key, value, out, lse), numbers(tuple(out.shape), seed=7), chunk_size


def _budget(saved: tuple[torch.Tensor, ...], _: torch.Tensor, chunk_size: int) -> int:
    query, key, value, *_rest = saved
    rows = max(query.numel(), key.numel()) // query.size(-1)
    return 4 * (3 * query.numel() + 2 * key.numel() + 2 * value.numel() + 6 * rows * chunk_size + 16 * rows)


@kata(
    minutes=35,
    belt="brown",
    hints=(
        (
            "The log-sum-exp gives back any tile of probabilities: P = exp(scores − lse). From there it is five lines, "
            "and none of them needs another tile."
        ),
        (
            "dV = Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP − δ), dQ = scale · dS K, dK = scale · dSᵀ Q. δ is the row's sum of "
            "dO ∘ O: make it once, before the loop."
        ),
        (
            "Walk over the keys. Each chunk gives its own rows of dK and dV (`torch.cat`, or write into them), and a "
            "part of dQ, which is added up. `P = (scale * query @ k.mT - lse[..., None]).exp()`."
        ),
    ),
    cases=st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 4), st.sampled_from((1.0, 5.0))).map(
        lambda drawn: _case(*drawn)
    ),
    edge_cases=lambda: {
        "one chunk": _case(3, 3, 8),
        "even chunks": _case(3, 4, 2),
        "an uneven last chunk": _case(4, 5, 2),
        "batch and heads": _case(3, 5, 2, heads=(2, 2)),
        "many keys": _case(512, 512, 32, size=8),
    },
    laws=[AgreesWithAutograd(), Value(roundings=32), Allocates(at_most=_budget, on=("many keys",))],
)
def attention_backward(
    saved: tuple[torch.Tensor, ...], grad_out: torch.Tensor, chunk_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The backward of attention, without its matrix.

    `saved` is what forward kept: query `(…, L, D)`, key and value `(…, S, D)`, `out` `(…, L, D)`, which is
    `softmax(query @ key.mT / √D) @ value`, and `lse` `(…, L)`, the log-sum-exp of the scaled scores. `grad_out` is the
    gradient of `out`. Return the gradients of query, key and value. Take `chunk_size` keys (or queries) at a time:
    besides the gradients, six tensors of the size `(…, L, chunk_size)` are granted. Autograd is not needed, and would
    keep too much.

    ```python
    out, lse = attention_forward(query, key, value, chunk_size=256)
    saved = query, key, value, out, lse
    grad_query, grad_key, grad_value = attention_backward(saved, grad_out, chunk_size=256)
    ```
    """
    query, key, value, out, lse = saved
    scale = 1 / math.sqrt(query.size(-1))
    delta = (grad_out * out).sum(-1, keepdim=True)
    grad_query, grad_key, grad_value = (torch.zeros_like(t) for t in (query, key, value))
    for start in range(0, key.size(-2), chunk_size):
        part = slice(start, start + chunk_size)
        k, v = key[..., part, :], value[..., part, :]
        probabilities = (scale * (query @ k.mT) - lse[..., None]).exp()
        grad_value[..., part, :] = probabilities.mT @ grad_out
        slope = scale * probabilities * (grad_out @ v.mT - delta)
        grad_query += slope @ k
        grad_key[..., part, :] = slope.mT @ query
    return grad_query, grad_key, grad_value


def _by_parts(saved, grad_out, chunk_size, slope_of, probabilities_of=None):
    """Walk over the keys; `slope_of(P, dP)` is the gradient of the scaled scores."""
    query, key, value, _, lse = saved
    scale = 1 / math.sqrt(query.size(-1))
    grad_query, grad_keys, grad_values = torch.zeros_like(query), [], []
    for k, v in zip(key.split(chunk_size, -2), value.split(chunk_size, -2)):
        scores = scale * (query @ k.mT)
        probabilities = (scores - lse[..., None]).exp() if probabilities_of is None else probabilities_of(scores)
        grad_values.append(probabilities.mT @ grad_out)
        slope = scale * slope_of(probabilities, grad_out @ v.mT)
        grad_query += slope @ k
        grad_keys.append(slope.mT @ query)
    return grad_query, torch.cat(grad_keys, -2), torch.cat(grad_values, -2)


def _delta(out, grad_out):
    return (grad_out * out).sum(-1, keepdim=True)


@attention_backward.wrong(
    "It makes the probabilities of all keys at once. The gradients are right; the matrix is what you were to avoid."
)
def whole_matrix(saved, grad_out, chunk_size):
    return attention_backward.reference(saved, grad_out, saved[1].size(-2))


@attention_backward.wrong(
    "It leaves δ out: dS = P ∘ dP is the gradient of an exponential. Softmax also divides, and what one probability "
    "gains the others lose."
)
def without_delta(saved, grad_out, chunk_size):
    return _by_parts(saved, grad_out, chunk_size, lambda p, dp: p * dp)


@attention_backward.wrong(
    "It sums P ∘ dP over the keys of the chunk. δ is the sum over all keys; the row's sum of dO ∘ O is that, and is "
    "there before the loop."
)
def delta_of_the_chunk(saved, grad_out, chunk_size):
    return _by_parts(saved, grad_out, chunk_size, lambda p, dp: p * (dp - (p * dp).sum(-1, keepdim=True)))


@attention_backward.wrong(
    "It takes the softmax of each chunk. Those probabilities add up to 1 within the chunk; the right ones are "
    "exp(scores − lse), and add up to 1 over the row."
)
def softmax_of_the_chunk(saved, grad_out, chunk_size):
    delta = _delta(saved[3], grad_out)
    return _by_parts(saved, grad_out, chunk_size, lambda p, dp: p * (dp - delta), lambda scores: scores.softmax(-1))


@attention_backward.wrong(
    "It subtracts δ after the product with P. All of the parenthesis is multiplied: dS = P ∘ (dP − δ)."
)
def delta_outside(saved, grad_out, chunk_size):
    delta = _delta(saved[3], grad_out)
    return _by_parts(saved, grad_out, chunk_size, lambda p, dp: p * dp - delta)


@attention_backward.wrong(
    "It forgets the scale on the way back. Scores were divided by √D, and so are the gradients of query and key."
)
def without_scale(saved, grad_out, chunk_size):
    grad_query, grad_key, grad_value = attention_backward.reference(saved, grad_out, chunk_size)
    root = math.sqrt(saved[0].size(-1))
    return grad_query * root, grad_key * root, grad_value


@attention_backward.wrong(
    "It scales the gradient of the query, and not that of the key. Both come from dS, and S has the scale in it."
)
def key_without_scale(saved, grad_out, chunk_size):
    grad_query, grad_key, grad_value = attention_backward.reference(saved, grad_out, chunk_size)
    return grad_query, grad_key * math.sqrt(saved[0].size(-1)), grad_value


@attention_backward.wrong(
    "It makes the scores again without the scale. The log-sum-exp is that of the scaled scores, so exp(scores − lse) "
    "are no probabilities."
)
def unscaled_scores(saved, grad_out, chunk_size):
    root, delta = math.sqrt(saved[0].size(-1)), _delta(saved[3], grad_out)
    lse = saved[4][..., None]
    slope_of, unscaled = lambda p, dp: p * (dp - delta), lambda scores: (root * scores - lse).exp()
    return _by_parts(saved, grad_out, chunk_size, slope_of, unscaled)


@attention_backward.wrong(
    "Its gradient of the query is that of the last chunk. Every chunk of keys has a part in it: add them up."
)
def last_chunk_only(saved, grad_out, chunk_size):
    query, key, value, out, lse = saved
    _, grad_key, grad_value = attention_backward.reference(saved, grad_out, chunk_size)
    last = query, key.split(chunk_size, -2)[-1], value.split(chunk_size, -2)[-1], out, lse
    return attention_backward.reference(last, grad_out, chunk_size)[0], grad_key, grad_value


@attention_backward.also_right
def tile_by_tile(saved, grad_out, chunk_size):
    query, key, value, out, lse = saved
    grad_queries, grad_key, grad_value = [], torch.zeros_like(key), torch.zeros_like(value)
    for start in range(0, query.size(-2), chunk_size):
        rows = slice(start, start + chunk_size)
        grad, delta = grad_out[..., rows, :], _delta(out[..., rows, :], grad_out[..., rows, :])
        part = query[..., rows, :], key, value, out, lse[..., rows]
        of_query, of_key, of_value = _by_parts(part, grad, chunk_size, lambda p, dp, d=delta: p * (dp - d))
        grad_queries.append(of_query)
        grad_key += of_key
        grad_value += of_value
    return torch.cat(grad_queries, -2), grad_key, grad_value


@attention_backward.also_right
def rows_in_chunks(saved, grad_out, chunk_size):
    query, key, value, out, _ = saved
    scale = 1 / math.sqrt(query.size(-1))
    grad_query, grad_key, grad_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for start in range(0, query.size(-2), chunk_size):
        part = slice(start, start + chunk_size)
        q, grad = query[..., part, :], grad_out[..., part, :]
        p = (scale * (q @ key.mT)).softmax(-1)
        grad_value += p.mT @ grad
        slope = p * (grad @ value.mT - _delta(out[..., part, :], grad)) * scale
        grad_query[..., part, :] = slope @ key
        grad_key += slope.mT @ q
    return grad_query, grad_key, grad_value
