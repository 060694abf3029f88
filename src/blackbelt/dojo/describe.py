"""Short words for any value, so that expected and got can stand side by side."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

SHOWN_ELEMENTS = 24


def describe(value: Any) -> str:
    """Return one or a few lines: a tensor by shape, layout, dtype and (where it is small) its numbers."""
    if isinstance(value, torch.Tensor):
        return _describe_tensor(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, torch.nn.Module):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        inner = ", ".join(_without_repetition(describe(item) for item in value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))  # an address says nothing, and is another one every time
    return text if len(text) <= 200 else text[:197] + "..."


def _without_repetition(words: Iterable[str]) -> Iterator[str]:
    """Say tensors that read the same and stand side by side once, with their number."""
    for text, alike in itertools.groupby(words):
        number = len(list(alike))
        if number > 3 and text.startswith("tensor"):
            yield f"{number} × {text}"
        else:
            yield from [text] * number


def size_of(value: Any) -> int:
    """Return how much there is to read: the number of tensor elements and of plain values, nested ones included."""
    if isinstance(value, torch.Tensor):
        return 2 * value.dim() + value.numel()
    if isinstance(value, Mapping):
        return sum(size_of(item) for item in value.values())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return 1 + sum(size_of(item) for item in value)
    return 1


def _describe_tensor(tensor: torch.Tensor) -> str:
    shape = tuple(tensor.shape)
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return f"{tensor.layout} tensor of shape {shape}, {tensor.dtype}, on {tensor.device}"
    layout = "" if tensor.is_contiguous() else f", stride {tensor.stride()}"
    grad = ", requires grad" if tensor.requires_grad else ""
    head = f"tensor of shape {shape}{layout}, {str(tensor.dtype).removeprefix('torch.')}{grad}"
    if tensor.numel() > SHOWN_ELEMENTS:
        return head
    return f"{head}: {_round(tensor.detach().cpu().tolist())}"


def _round(value: Any) -> Any:
    if isinstance(value, list):
        return [_round(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
