"""Micro-batches as trees of tensors: joined into one batch along dimension 0, copied, turned to float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class CannotJoinError(ValueError):
    """Micro-batches that do not concatenate: different lengths in another dimension, or no tensors at all."""


def join(parts: Sequence[Any]) -> Any:
    """Return one batch: tensors concatenated along dimension 0, inside of tuples, lists and mappings.

    What is no tensor, or has no dimension, must be equal in all parts. Raises CannotJoinError.
    """
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return _join_tensors(parts)
    if any(type(part) is not type(first) for part in parts):
        raise CannotJoinError(f"micro-batches of types {sorted({type(part).__name__ for part in parts})}")
    if isinstance(first, Mapping):
        if any(set(part) != set(first) for part in parts):
            raise CannotJoinError("micro-batches with different keys")
        return _rebuild_mapping(first, {key: join([part[key] for part in parts]) for key in first})
    if isinstance(first, (tuple, list)):
        if any(len(part) != len(first) for part in parts):
            raise CannotJoinError(f"micro-batches of {sorted({len(part) for part in parts})} items")
        return _rebuild_sequence(first, [join(list(items)) for items in zip(*parts)])
    if any(part is not first and part != first for part in parts):
        raise CannotJoinError(f"different values of type {type(first).__name__}")
    return first


def to_double(batch: Any) -> Any:
    """Return the batch with its floating-point tensors in float64, complex ones in complex128."""
    return _map_tensors(batch, widen)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return a floating-point tensor in float64, a complex one in complex128, any other as it is."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def duplicate(batch: Any) -> Any:
    """Return a copy that a loss may change. Raises ValueError for tensors inside of a graph."""
    try:
        return copy.deepcopy(batch)
    except RuntimeError as error:
        raise ValueError(
            "a micro-batch holds a tensor that was computed with a graph, so it cannot be copied. detach() it, or "
            f"compute it inside loss_sum_and_count. PyTorch says: {error}"
        ) from error


def devices_of(batch: Any) -> set[torch.device]:
    """Return the devices of the batch's tensors."""
    devices: set[torch.device] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        devices.add(tensor.device)
        return tensor

    _map_tensors(batch, note)
    return devices


def _join_tensors(parts: Sequence[Any]) -> torch.Tensor:
    first: torch.Tensor = parts[0]
    alike = [part for part in parts if isinstance(part, torch.Tensor) and part.dtype == first.dtype]
    shapes = {tuple(part.shape[1:]) for part in alike}
    if len(alike) < len(parts) or len(shapes) > 1 or len({part.dim() for part in alike}) > 1:
        seen = sorted({str(tuple(part.shape)) if isinstance(part, torch.Tensor) else str(type(part)) for part in parts})
        raise CannotJoinError(f"tensors of shapes {', '.join(seen[:4])}")
    if first.dim():
        return torch.cat(list(parts))
    if any(not torch.equal(part, first) for part in parts):
        raise CannotJoinError("0-d tensors with different values")
    return first


def _map_tensors(batch: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(batch, torch.Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return _rebuild_mapping(batch, {key: _map_tensors(value, function) for key, value in batch.items()})
    if isinstance(batch, (tuple, list)):
        return _rebuild_sequence(batch, [_map_tensors(value, function) for value in batch])
    return batch


def _rebuild_sequence(like: Any, items: list[Any]) -> Any:
    return like._make(items) if hasattr(like, "_make") else type(like)(items)


def _rebuild_mapping(like: Any, items: dict[Any, Any]) -> Any:
    try:
        return type(like)(items)
    except TypeError:
        return items
