"""The way from the formula to the exported function, one idea a rung.

=== ====================================== ==========================================================================
1   :func:`naive_attention`                the formula, in every mode; holds the matrix of scores
2   :func:`chunked_attention`              online softmax: the forward holds one tile of it
3   :class:`RecomputedAttention`           the backward, too: saves one number per query and makes the tiles again
4   :func:`skipping_attention`             a causal mask hides half of the tiles: leave them out
5   ``backend="eager"``                    scores that are bounded need no maximum; threads keep whole tiles; all modes
6   ``backend="compiled"``                 the softmax of a tile as one fused loop
7   ``backend="triton"``                   the tile never leaves the GPU's registers
=== ====================================== ==========================================================================

Rungs 2 to 4 take query (…, L, D), key (…, S, D) and value (…, S, V) with equal leading dimensions and show one idea;
the last three are :func:`~blackbelt.reference.attention.memory_efficient_attention`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK = 512


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return ``softmax(scale · query keyᵀ + mask) value``, with the semantics of PyTorch's own function.

    Holds several matrices of L × S, in forward and for backward. Plain PyTorch: differentiable twice, on any device.
    """
    if enable_gqa:
        key, value = (t.repeat_interleave(query.size(-3) // t.size(-3), -3) for t in (key, value))
    scale = 1 / math.sqrt(max(query.size(-1), 1)) if scale is None else scale
    scores = scale * (query @ key.mT)  # (…, H, L, S)
    hidden = None
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = attn_mask.logical_not()
    elif attn_mask is not None:
        scores = scores + attn_mask
        hidden = scores == -math.inf
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    probabilities = scores.softmax(-1)
    if hidden is not None:  # a row that sees nothing is NaN after softmax, and 0 by definition
        probabilities = probabilities.masked_fill(hidden.all(-1, keepdim=True), 0.0)
    probabilities = torch.nn.functional.dropout(probabilities, dropout_p)
    return probabilities.to(value.dtype) @ value


def chunked_attention(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the result and the log-sum-exp of every query's scores (…, L), looking at one tile at a time.

    The sum of the exponentials is kept relative to the largest score so far; when a larger one comes, what was added up
    is multiplied by ``exp(old − new)``. Milakov and Gimelshein, arXiv:1805.02867; Rabe and Staats, arXiv:2112.05682.
    """
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    results, logarithms = [], []
    for start in range(0, query.size(-2), CHUNK):
        rows = query[..., start : start + CHUNK, :]
        maximum = rows.new_full((*rows.shape[:-1], 1), -math.inf)
        total = torch.zeros_like(maximum)
        result = rows.new_zeros(*rows.shape[:-1], value.size(-1))
        for column in range(0, key.size(-2), CHUNK):
            scores = _scores(rows, key, start, column, scale, is_causal=is_causal)
            new_maximum = torch.maximum(maximum, scores.amax(-1, keepdim=True))
            exponentials = (scores - new_maximum).exp()
            correction = (maximum - new_maximum).exp()
            total = total * correction + exponentials.sum(-1, keepdim=True)
            result = result * correction + exponentials @ value[..., column : column + CHUNK, :]
            maximum = new_maximum
        results.append(result / total)
        logarithms.append((maximum + total.log()).squeeze(-1))
    return torch.cat(results, -2), torch.cat(logarithms, -1)


def _scores(rows: Tensor, key: Tensor, start: int, column: int, scale: float, *, is_causal: bool) -> Tensor:
    scores = scale * (rows @ key[..., column : column + CHUNK, :].mT)
    if is_causal and column + scores.size(-1) > start + 1:
        queries = torch.arange(start, start + scores.size(-2), device=rows.device)
        keys = torch.arange(column, column + scores.size(-1), device=rows.device)
        scores = scores.masked_fill(keys > queries[:, None], -math.inf)
    return scores


class RecomputedAttention(torch.autograd.Function):
    """Rung 3: ``RecomputedAttention.apply(query, key, value, is_causal, skipping)``, scale 1 / sqrt(D).

    Autograd would save every tile of rung 2, which is the whole matrix again. Saved here are the inputs, the result O
    and the log-sum-exp; then P = exp(scores − lse), and with D = sum over V of dO ∘ O:
    dV = Pᵀ dO, dS = P ∘ (dO Vᵀ − D), dQ = scale · dS K, dK = scale · dSᵀ Q.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, is_causal: bool, skipping: bool) -> Tensor:
        """Run rung 2, or rung 4 where tiles are skipped."""
        run = _skipping_forward if skipping and is_causal else chunked_attention
        out, lse = run(query, key, value, is_causal=is_causal)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.is_causal, ctx.skipping = is_causal, skipping
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        """Make each tile of probabilities again and take what it gives to the three gradients."""
        query, key, value, out, lse = ctx.saved_tensors
        scale = 1 / math.sqrt(query.size(-1))
        grad_query, grad_key, grad_value = (torch.zeros_like(t) for t in (query, key, value))
        for start in range(0, query.size(-2), CHUNK):
            rows = slice(start, start + CHUNK)
            grad = grad_out[..., rows, :]
            delta = (grad * out[..., rows, :]).sum(-1, keepdim=True)
            for column in range(0, key.size(-2), CHUNK):
                if ctx.skipping and ctx.is_causal and column >= start + grad.size(-2):
                    break  # rung 4: above the diagonal every probability is 0
                columns = slice(column, column + CHUNK)
                scores = _scores(query[..., rows, :], key, start, column, scale, is_causal=ctx.is_causal)
                probabilities = (scores - lse[..., rows, None]).exp()
                grad_value[..., columns, :] += probabilities.mT @ grad
                slope = probabilities * (grad @ value[..., columns, :].mT - delta) * scale
                grad_query[..., rows, :] += slope @ key[..., columns, :]
                grad_key[..., columns, :] += slope.mT @ query[..., rows, :]
        return grad_query, grad_key, grad_value, None, None


def _skipping_forward(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Rung 2 on the keys that a run of queries sees: those of the later tiles are left out, not masked."""
    assert is_causal
    scale = 1 / math.sqrt(query.size(-1))
    results, logarithms = [], []
    for start in range(0, query.size(-2), CHUNK):
        rows = query[..., start : start + CHUNK, :]
        seen = min(key.size(-2), start + rows.size(-2))
        before, own = slice(0, min(start, seen)), slice(min(start, seen), seen)
        parts = [chunked_attention(rows, key[..., before, :], value[..., before, :])] if before.stop else []
        if own.stop > own.start:  # the tile on the diagonal
            parts.append(chunked_attention(rows, key[..., own, :], value[..., own, :], is_causal=True, scale=scale))
        result, logarithm = parts[0]
        for other, other_logarithm in parts[1:]:  # two softmaxes over different keys join by their log-sum-exps
            joined = torch.logaddexp(logarithm, other_logarithm)
            weights = [(part - joined).exp()[..., None] for part in (logarithm, other_logarithm)]
            result, logarithm = weights[0] * result + weights[1] * other, joined
        results.append(result)
        logarithms.append(logarithm)
    return torch.cat(results, -2), torch.cat(logarithms, -1)


def recomputed_attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False) -> Tensor:
    """Rung 3: forward and backward hold one tile at a time."""
    out: Tensor = RecomputedAttention.apply(query, key, value, is_causal, False)
    return out


def skipping_attention(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False) -> Tensor:
    """Rung 4: as rung 3, and tiles above the diagonal of a causal mask are never computed."""
    out: Tensor = RecomputedAttention.apply(query, key, value, is_causal, True)
    return out
