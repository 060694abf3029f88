"""Contents of batches and of stored samples, as hashes: what can be kept and compared without keeping tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

HASHED_BYTES = 1 << 16  # of each tensor
DEPTH = 6  # of nested containers


def leaves(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    """Yield the tensors, arrays, numbers and strings of nested containers and plain objects; flat lists as one."""
    if isinstance(value, (Tensor, np.ndarray, str, bytes, int, float, np.generic)):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values() if depth else ():
            yield from leaves(item, depth - 1)
    elif isinstance(value, (list, tuple)):
        if value and all(isinstance(item, (str, int, float)) for item in value):
            yield value
            return
        for item in value if depth else ():
            yield from leaves(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (torch.nn.Module, type)):
        yield from leaves(vars(value), depth - 1)


def leaf_bytes(leaf: Any) -> bytes:
    """Return the first 64 KB of a leaf, as bytes."""
    if isinstance(leaf, Tensor):
        if leaf.layout != torch.strided or not leaf.numel():
            return b""
        size = max(1, HASHED_BYTES // leaf.element_size())
        flat = leaf.detach().flatten()[:size].cpu().resolve_conj().resolve_neg()
        return bytes(flat.contiguous().view(torch.uint8).numpy().tobytes())
    if isinstance(leaf, np.ndarray):
        flat_array = leaf.reshape(-1)[: max(1, HASHED_BYTES // max(1, leaf.itemsize))]
        return repr(flat_array.tolist()).encode() if leaf.dtype.hasobject else bytes(flat_array.tobytes())
    return repr(leaf[:4096] if isinstance(leaf, (str, bytes, list, tuple)) else leaf).encode()


def digest(data: Any) -> str:
    """Return a hash of everything in ``data``; "" where it has nothing that can be hashed."""
    total, found = hashlib.sha1(), False  # noqa: S324 - no secret
    for leaf in leaves(data):
        content = leaf_bytes(leaf)
        found |= bool(content)
        total.update(content)
    return total.hexdigest() if found else ""


def pieces(data: Any) -> list[tuple[str, int]]:
    """Return a hash of each leaf, and how many different values it has among its first ones."""
    return [(hashlib.sha1(leaf_bytes(leaf)).hexdigest()[:16], _num_values(leaf)) for leaf in leaves(data)]  # noqa: S324


def _num_values(leaf: Any) -> int:
    if isinstance(leaf, Tensor):
        return 0 if leaf.layout != torch.strided else int(leaf.detach().flatten()[:256].unique().numel())
    if isinstance(leaf, np.ndarray):
        return 0 if leaf.dtype.hasobject else len(np.unique(leaf.reshape(-1)[:256]))
    return len(set(leaf[:256])) if isinstance(leaf, Sequence) else 1
