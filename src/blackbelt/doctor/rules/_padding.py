"""Padding: where a batch has it, what declares it, and which keys a call of attention looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackbelt.doctor.events import FunctionCall
from blackbelt.places import Place

MAX_ROWS, MAX_LENGTH = 8, 512  # of a batch that are looked at
MAX_BEFORE = 2  # tokens that a model puts before its input's: for the class, for distillation
SEEN = 1e-6  # a weight of attention above this is one
LOW = -1e3  # what is added to a score below this hides the key
COMPARING = {"eq", "ne", "lt", "le", "gt", "ge", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}
COMPARING |= {"logical_not", "bitwise_not", "__invert__", "isin"}
ATTENDING = {"softmax", "scaled_dot_product_attention", "multi_head_attention_forward"}
FILLING = {"masked_fill", "masked_fill_", "where"}


@dataclass(eq=False)
class Declared:
    """A mask over (rows, length) that the training made or was given, with the line of the comparison, if one."""

    mask: Tensor  # a copy of its first rows, bool
    place: Place | None
    from_values: bool  # compared were numbers of floating point: what is perturbed would change it


@dataclass(frozen=True, eq=False)
class Padded:
    """An input of a model that is padded: where its first rows are, what declares it, and whether time comes first."""

    values: Tensor
    pads: Tensor
    declared: Declared
    time_major: bool
    num_before: int = 0  # keys that stand before the input's: a token that the model itself puts there

    def behind(self, num_keys: int) -> Padded | None:
        """Return it as ``num_keys`` keys see it, None where these are not the input's, alone or behind a few more."""
        more = num_keys - self.pads.shape[1]
        if not 0 <= more <= MAX_BEFORE:
            return None
        return replace(self, pads=torch.nn.functional.pad(self.pads, (more, 0)), num_before=more) if more else self


@dataclass(eq=False)
class Looked:
    """A call of attention: which keys (rows, queries, keys) have a say, and by which line."""

    allowed: Tensor
    place: Place | None
    how: str
    filled: Place | None = None  # the line that masked the scores before
    dropped: bool = False  # and whose result was not used


def paddings(values: Tensor) -> list[Tensor]:
    """Return where (rows, length[, features]) may be padded: with one id, or with zeros, at one end of its rows.

    Of the first rows; transpose time-major ids before.
    """
    values = values[:MAX_ROWS]
    found = []
    if values.dim() == 2 and not values.is_floating_point() and values.dtype != torch.bool:
        for side in (-1, 0):
            found += [_at_end(values == id_, side) for id_ in values[:, side].unique()]
    elif values.dim() == 3 and values.is_floating_point():
        found = [_at_end((values == 0).all(-1), side) for side in (-1, 0)]
    return [pads for pads in found if pads is not None]


def _at_end(same: Tensor, side: int) -> Tensor | None:
    """Return ``same`` if it is true in one run at that end of every row, and nowhere else, and in some rows."""
    run = (same.flip(1) if side == -1 else same).long().cumprod(1).bool()
    run = run.flip(1) if side == -1 else run
    is_padding = bool(run.any()) and bool((run == same).all()) and not bool(run.all(1).any())
    return run if is_padding and len(set(run.sum(1).tolist())) > 1 else None


def as_mask(tensor: Tensor) -> Tensor | None:
    """Return the first rows of a mask of zeros and ones, of shape (rows, length) or with dims of 1 between, as bool."""
    if tensor.dim() < 2 or tensor.requires_grad or tensor.numel() > MAX_LENGTH * 4096 or tensor.layout != torch.strided:
        return None
    if any(n != 1 for n in tensor.shape[1:-1]):
        return None
    flat = tensor.reshape(tensor.shape[0], tensor.shape[-1])[:MAX_ROWS]
    if flat.dtype == torch.bool:
        return flat.clone()
    if bool(((flat == 0) | (flat == 1)).all()):
        return flat != 0
    return None


def declared_by(call: FunctionCall) -> list[Declared]:
    """Return the mask that a comparison made, if it has the shape of one; of ids that are time-major both ways."""
    result, given = call.result, call.argument(0, "input")
    if not isinstance(result, Tensor) or result.dtype != torch.bool or result.dim() < 2:
        return []
    from_values = isinstance(given, Tensor) and given.is_floating_point()
    ways = (result, result.t()) if result.dim() == 2 else (result,)
    masks = [mask for way in ways if (mask := as_mask(way)) is not None]
    return [Declared(mask, call.place, from_values) for mask in masks]


def biased_by(call: FunctionCall) -> Place | None:
    """Return the line that makes zeros and large negative numbers, which hide keys when added to their scores."""
    result = call.result
    if not isinstance(result, Tensor) or result.requires_grad or result.dim() < 2 or not result.is_floating_point():
        return None
    is_bias = result.numel() and float(result.amin()) < LOW and float(result.amax()) == 0
    return call.place if is_bias else None


def looked_by(call: FunctionCall) -> Looked | None:
    """Return which keys a call of attention looks at: of PyTorch, or a softmax in a module's forward."""
    if call.name == "softmax":
        allowed = _softmax(call)
    elif call.name == "scaled_dot_product_attention":
        allowed = _scaled_dot_product(call)
    elif call.name == "multi_head_attention_forward":
        allowed = _multi_head(call)
    else:
        return None
    return None if allowed is None else Looked(allowed, call.place, call.name)


def _softmax(call: FunctionCall) -> Tensor | None:
    weights, dim = call.result, call.argument(1, "dim")
    if not isinstance(weights, Tensor) or dim is None or weights.dim() < 2 or max(weights.shape[1:]) > MAX_LENGTH:
        return None
    dim = dim % weights.dim()
    weights = weights.detach()[:MAX_ROWS].transpose(dim, -1)
    while weights.dim() > 3:
        weights = weights.amax(1)
    return (weights if weights.dim() == 3 else weights.unsqueeze(1)) > SEEN


def _scaled_dot_product(call: FunctionCall) -> Tensor | None:
    query, key, mask = call.args[0], call.argument(1, "key"), call.argument(3, "attn_mask")
    rows, queries, keys = query.shape[0], query.shape[-2], key.shape[-2]
    if query.dim() != 4 or max(queries, keys) > MAX_LENGTH:
        return None
    allowed = torch.ones(min(rows, MAX_ROWS), queries, keys, dtype=torch.bool, device=query.device)
    if call.argument(5, "is_causal", False):
        allowed = allowed.tril()
    if mask is not None:
        mask = mask.detach() if mask.dtype == torch.bool else mask.detach() > LOW
        mask = mask.expand(rows, *mask.shape[1:]) if mask.dim() == 4 else mask.unsqueeze(0)
        mask = mask[:MAX_ROWS].any(1) if mask.dim() == 4 else mask
        allowed = allowed & mask
    return allowed


def _multi_head(call: FunctionCall) -> Tensor | None:
    query, key = call.args[0], call.argument(1, "key")
    if query.dim() != 3 or max(query.shape[0], key.shape[0]) > MAX_LENGTH:
        return None
    queries, rows, _ = query.shape
    allowed = torch.ones(min(rows, MAX_ROWS), queries, key.shape[0], dtype=torch.bool, device=query.device)
    mask, hidden = call.kwargs.get("attn_mask"), call.kwargs.get("key_padding_mask")
    if call.kwargs.get("is_causal") and mask is None:
        allowed = allowed.tril()
    if mask is not None:
        seen = ~mask if mask.dtype == torch.bool else mask.detach() > LOW
        if seen.dim() == 3:
            seen = seen.view(rows, -1, *seen.shape[1:]).any(1)[:MAX_ROWS]
        allowed = allowed & seen
    if hidden is not None:
        seen = ~hidden if hidden.dtype == torch.bool else hidden.detach() > LOW
        allowed = allowed & seen[:MAX_ROWS].unsqueeze(1)
    return allowed


def leaks(looked: Looked, pads: Tensor, hidden: Tensor) -> str:
    """Return "inverted" or "ignored" where valid queries look at padded keys, "" where they do not.

    ``pads`` (rows, length) are the keys'; ``hidden`` are queries that do not count, of any input of that length.
    """
    allowed = looked.allowed
    rows, queries, keys = allowed.shape
    if rows != pads.shape[0] or keys != pads.shape[1]:
        return ""
    valid = ~hidden if queries == hidden.shape[1] else torch.ones(rows, queries, dtype=torch.bool, device=pads.device)
    padded = pads.any(1)
    looks = (allowed & valid.unsqueeze(2))[padded]
    at_pads = looks & pads[padded].unsqueeze(1)
    if not bool(at_pads.any()):
        return ""
    return "ignored" if bool((looks & ~pads[padded].unsqueeze(1)).any()) else "inverted"
