"""Samples of data sets: where they are stored, which one an index means, and hashes of the rows of a batch."""

from __future__ import annotations

import bisect
import contextlib
import functools
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from blackbelt.doctor.contents import leaves

MAX_COLUMNS = 64  # of a row that are hashed, evenly spaced
RICH = 4  # different values in a row, so that two rows are hardly equal by chance


def resolve(dataset: Any, index: Any) -> tuple[Any, Any]:
    """Return the data set behind subsets and concatenations, and the index there."""
    while isinstance(index, int):
        if type(dataset) is Subset:
            dataset, index = dataset.dataset, _plain(dataset.indices[index])
        elif type(dataset) is ConcatDataset and 0 <= index < len(dataset):
            part = bisect.bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        else:
            break
    return dataset, index


def _plain(index: Any) -> Any:
    return int(index) if isinstance(index, (np.integer, Tensor)) and index.size in ((), 1) else index


@functools.lru_cache(maxsize=16)
def _weights(size: int) -> Tensor:
    numbers = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers ^= numbers >> np.uint64(29)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    return torch.from_numpy((numbers | np.uint64(1)).view(np.int64))


def first_rows(data: Any) -> Tensor | None:
    """Return the samples of a batch as rows, of its first tensor, some columns of each; None where it has none."""
    tensor = next((leaf for leaf in leaves(data) if isinstance(leaf, Tensor) and leaf.dim() > 1), None)
    if tensor is None or tensor.layout != torch.strided or tensor.is_complex() or not tensor.numel():
        return None
    flat = tensor.detach().reshape(tensor.shape[0], -1)
    return flat[:, :: max(1, -(-flat.shape[1] // MAX_COLUMNS))]


def hashes(rows: Tensor) -> list[int]:
    """Return a 64-bit hash of each row."""
    rows = rows.cpu().contiguous()
    if rows.is_floating_point():
        rows = (rows + 0.0).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()])  # -0. is 0.
    mixed: list[int] = (rows.to(torch.int64) * _weights(rows.shape[1])).sum(1).tolist()
    return mixed


def are_rich(rows: Tensor) -> bool:
    """Return whether rows have so many different values that they are not equal by chance."""
    few = rows[:8].cpu()
    distinct = [int(row.unique().numel()) for row in few]
    enough = RICH if rows.is_floating_point() and bool((few != few.round()).any()) else 2 * RICH
    return sorted(distinct)[len(distinct) // 2] >= enough


class Samples:
    """A set of samples, remembered by hashes of their contents and by their indices in data sets."""

    def __init__(self) -> None:
        self.contents: set[int] = set()
        self.indices: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return max(len(self.contents), len(self.indices))

    def add_rows(self, data: Any) -> None:
        """Add the samples of a batch by their contents, where it is on the CPU and they have any to tell them by."""
        rows = first_rows(data)
        if rows is not None and rows.device.type == "cpu" and are_rich(rows):
            self.contents.update(hashes(rows))

    def take(self, others: Samples) -> None:
        """Move the samples of others in here."""
        self.contents |= others.contents
        self.indices |= others.indices
        others.contents, others.indices = set(), set()

    def common(self, others: Samples) -> tuple[int, int, str]:
        """Return how many of these are among others, of how many, and what tells it."""
        return max(
            (len(self.indices & others.indices), len(self.indices), "index in the data set"),
            (len(self.contents & others.contents), len(self.contents), "content of the sample"),
        )


class Numbers:
    """A number for each object, that no other one ever has; an ``id`` is given anew to the next one."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}  # by `id`: tensors compare element by element
        self._next = 0

    def __getitem__(self, thing: Any) -> int:
        reference, number = self._known.get(id(thing), (None, 0))
        if reference is not None and reference() is thing:
            return number
        self._next += 1
        with contextlib.suppress(TypeError):  # a list, which cannot be referred to weakly, is another one each time
            self._known[id(thing)] = (weakref.ref(thing), self._next)
        return self._next
