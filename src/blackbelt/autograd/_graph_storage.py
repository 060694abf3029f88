"""The memory behind tensors of every kind: dense, sparse, subclasses that wrap others, and those that have none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

Key = tuple[str, int]
PLAIN = (torch.Tensor, torch.nn.Parameter)


def storages(tensor: torch.Tensor) -> Iterator[tuple[Key, int]]:
    """Yield the key and the size in bytes of every storage behind ``tensor``. Reads no element, copies nothing.

    Equal keys are the same memory, for as long as the tensors are alive. A subclass that wraps tensors (DTensor, nested
    tensors) has the storages of those; a sparse tensor those of its indices and values. A tensor without a storage that
    can be read (MKL-DNN's opaque layout) counts as elements times bytes per element.
    """
    is_plain = type(tensor) in PLAIN and tensor.layout is torch.strided
    for dense in (tensor,) if is_plain else _dense(tensor):
        try:
            storage = dense.untyped_storage()
            yield ("storage", storage._cdata), int(storage.nbytes())  # noqa: SLF001 - what PyTorch itself compares
        except (RuntimeError, NotImplementedError):  # opaque: no storage to ask
            yield ("tensor", id(dense)), int(dense.numel()) * dense.element_size()


def _dense(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    stack: list[Any] = [tensor]
    while stack:
        item = stack.pop()
        if is_traceable_wrapper_subclass(item):
            names, _ = item.__tensor_flatten__()
            parts = [getattr(item, name) for name in reversed(names)]
            stack.extend(part for part in parts if isinstance(part, torch.Tensor))  # DTensor names its mesh as well
        elif item.layout in {torch.sparse_csr, torch.sparse_bsr}:
            stack += [item.values(), item.col_indices(), item.crow_indices()]
        elif item.layout in {torch.sparse_csc, torch.sparse_bsc}:
            stack += [item.values(), item.row_indices(), item.ccol_indices()]
        elif item.layout == torch.sparse_coo:
            stack += [item._values(), item._indices()]  # noqa: SLF001 - the public ones demand a coalesced tensor
        else:
            yield item


def has_memory(tensor: torch.Tensor) -> bool:
    """Whether real memory is behind ``tensor``: not on `meta`, and no FakeTensor."""
    if type(tensor) in PLAIN:
        return not tensor.is_meta
    return not any(dense.is_meta or hasattr(dense, "fake_mode") for dense in _dense(tensor))
