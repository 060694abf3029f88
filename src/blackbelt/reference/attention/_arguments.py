"""What may be passed, and the one form everything behind it works on: (B, H, L, D) with masks of four dimensions.

B batch, H heads of the query, K heads of key and value, L rows (queries), S columns (keys), D head size, V head size of
the value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Arguments(NamedTuple):
    """Checked arguments in canonical form, and the shape the result has for the caller."""

    query: Tensor  # (B, H, L, D)
    key: Tensor  # (B, K, S, D), H a multiple of K
    value: Tensor  # (B, K, S, V)
    mask: Tensor | None  # bool or floating point, four dimensions, broadcastable to (B, H, L, S)
    scale: float
    shape: tuple[int, ...]  # of the result


def prepare(  # noqa: PLR0917  (in the order of the exported function's)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> Arguments:
    """Check what was passed and return views of it in canonical form (a copy only where no view exists)."""
    _check_tensors(query, key, value)
    _check_numbers(query, attn_mask, dropout_p, is_causal, scale)
    if enable_gqa and min(t.dim() for t in (query, key, value)) < 3:
        raise ValueError(
            f"enable_gqa=True needs a dimension of heads, (…, heads, length, head size), but query, key and value have "
            f"{query.dim()}, {key.dim()} and {value.dim()} dimensions"
        )
    full = [t if t.dim() > 2 else t.unsqueeze(0) for t in (query, key, value)]
    batch, heads, key_heads, value_heads = _batch_and_heads(full, enable_gqa=enable_gqa)
    if key_heads != value_heads:  # each is repeated by its own factor, as SDPA does
        full[1], full[2] = (t.repeat_interleave(heads // t.size(-3), -3) for t in full[1:])
    folded = [t.expand(*batch, *t.shape[-3:]).reshape(math.prod(batch), *t.shape[-3:]) for t in full]
    if folded[0].size(1) != heads:  # one head of queries against many of keys
        folded[0] = folded[0].expand(-1, heads, -1, -1)
    length, keys, head_size = query.size(-2), key.size(-2), query.size(-1)
    mask = None if attn_mask is None else _folded_mask(attn_mask, batch, heads, length, keys)
    plain = query.dim() == key.dim() == value.dim() == 2
    shape = (length, value.size(-1)) if plain else (*batch, heads, length, value.size(-1))
    factor = (1 / math.sqrt(head_size) if head_size else 1.0) if scale is None else float(scale)
    return Arguments(folded[0], folded[1], folded[2], mask, factor, shape)


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    named = {"query": query, "key": key, "value": value}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}; memory_efficient_attention takes tensors")
        if tensor.dim() < 2:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; at least two dimensions are needed: (…, length, head size)"
            )
        if tensor.dtype not in FLOATING:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING)
            raise TypeError(f"{name} has dtype {tensor.dtype}; allowed are {allowed}")
        if tensor.dtype != query.dtype:
            raise TypeError(
                f"{name} has dtype {tensor.dtype} and query {query.dtype}; all three must have the same: "
                f"try {name}.to(query.dtype)"
            )
        if tensor.device != query.device:
            raise ValueError(
                f"{name} is on {tensor.device} and query on {query.device}; all three must be on the same device: "
                f"try {name}.to(query.device)"
            )
    if key.size(-1) != query.size(-1):
        raise ValueError(
            f"key has head size {key.size(-1)} and query {query.size(-1)}; the last dimensions must be equal "
            f"(query {tuple(query.shape)}, key {tuple(key.shape)})"
        )
    if value.size(-2) != key.size(-2):
        raise ValueError(
            f"value has length {value.size(-2)} and key {key.size(-2)}; there must be one value for every key "
            f"(key {tuple(key.shape)}, value {tuple(value.shape)})"
        )


def _check_numbers(
    query: Tensor, attn_mask: Tensor | None, dropout_p: float, is_causal: bool, scale: float | None
) -> None:
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p is {dropout_p}; it must be at least 0 and less than 1")
    if scale is not None and not (math.isfinite(scale) and scale >= 0):
        raise ValueError(
            f"scale is {scale}; it must be a finite number of at least 0, or None for 1 / sqrt(head size) "
            f"(for a negative one, negate the query)"
        )
    if attn_mask is None:
        return
    if is_causal:
        raise ValueError(
            "attn_mask was passed together with is_causal=True; pass one of them: a mask can be made causal with "
            "attn_mask.tril() where it is bool"
        )
    if not isinstance(attn_mask, Tensor):
        raise TypeError(f"attn_mask is a {type(attn_mask).__name__}; it must be a tensor or None")
    if attn_mask.dtype not in {torch.bool, torch.float32, query.dtype}:
        raise TypeError(
            f"attn_mask has dtype {attn_mask.dtype}; allowed are bool (True: takes part), float32 and the dtype of the "
            f"query, {query.dtype} (added to the scores)"
        )
    if attn_mask.device != query.device:
        raise ValueError(
            f"attn_mask is on {attn_mask.device} and query on {query.device}; they must be on the same device: "
            f"try attn_mask.to(query.device)"
        )


def _batch_and_heads(full: list[Tensor], *, enable_gqa: bool) -> tuple[tuple[int, ...], int, int, int]:
    shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in zip(("query", "key", "value"), full))
    try:
        batch = torch.broadcast_shapes(*(t.shape[:-3] for t in full))
    except RuntimeError:
        raise ValueError(f"the batch dimensions of query, key and value do not broadcast: {shapes}") from None
    query_heads, key_heads, value_heads = (t.size(-3) for t in full)
    if enable_gqa:
        for name, heads in (("key", key_heads), ("value", value_heads)):
            if heads == 0 or query_heads % heads:
                raise ValueError(
                    f"enable_gqa=True, and {name} has {heads} heads, which do not divide the {query_heads} of query "
                    f"({shapes}); every head of {name} must serve the same number of query heads"
                )
        return tuple(batch), query_heads, key_heads, value_heads
    counts = {query_heads, key_heads, value_heads} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"query, key and value have {query_heads}, {key_heads} and {value_heads} heads ({shapes}); they must be "
            f"equal, or pass enable_gqa=True where several query heads share one of key and value"
        )
    return tuple(batch), (counts or {1}).pop(), key_heads, value_heads


def _folded_mask(mask: Tensor, batch: tuple[int, ...], heads: int, length: int, keys: int) -> Tensor:
    target = (*batch, heads, length, keys)
    padded = (1,) * (len(target) - mask.dim()) + tuple(mask.shape)
    fits = len(padded) == len(target) and all(size in {1, wanted} for size, wanted in zip(padded, target))
    if mask.dim() < 2 or not fits:
        raise ValueError(
            f"attn_mask has shape {tuple(mask.shape)}; it must have at least two dimensions and broadcast to "
            f"(…, heads, query length, key length) = {target}"
        )
    mask = mask.reshape(padded)
    if all(size == 1 for size in padded[:-3]):
        return mask.reshape(1, *padded[-3:])
    return mask.expand(*batch, *padded[-3:]).reshape(math.prod(batch), *padded[-3:])
