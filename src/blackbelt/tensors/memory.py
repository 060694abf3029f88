"""``memory_map(tensor)``: which storage cell each index reads, and which cells are only kept alive."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from blackbelt.report import Block, Cell, Grid, Prose, Report, Table, Verdict, format_bytes

MAX_DRAWN_CELLS = 96
MAX_COUNTED_CELLS = 2**30
MAX_READERS = 100
DRAWING_COLUMNS = 72  # characters that a terminal of 80 columns leaves beside the row labels


class NotStridedError(TypeError):
    """The argument has no single storage that size, stride and offset describe."""


class TooLargeToCountError(ValueError):
    """Counting the cells of this overlapping layout exactly would itself take too much memory."""


@dataclass(frozen=True)
class StorageCell:
    """One element of the storage: its position, the first indices that read it, and how many do (100: 100 or more)."""

    position: int
    readers: tuple[tuple[int, ...], ...]
    num_readers: int


@dataclass(frozen=True)
class MemoryReport(Report):
    """Which storage cells a tensor reads. A cell is one element of ``itemsize`` bytes.

    ``num_read`` are distinct cells, ``num_shared`` those that more than one index reads. ``alive_bytes`` is what the
    storage occupies as long as this tensor lives, ``needed_bytes`` what the read cells occupy, ``clone_bytes`` what
    ``tensor.clone()`` would. ``in_place`` is what PyTorch's check says of an in-place operator: ``"safe"``,
    ``"refused"``, or ``"unchecked"`` (it does not look closely enough to know).
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int
    dtype: str
    itemsize: int
    num_cells: int
    num_read: int
    num_shared: int
    num_unread: int
    alive_bytes: int
    needed_bytes: int
    clone_bytes: int
    in_place: str
    drawn: tuple[StorageCell, ...]
    num_cells_before: int
    num_cells_after: int

    def blocks(self) -> Iterator[Block]:
        yield Verdict(self._verdict(), True if self.num_read == self.num_cells and not self.num_shared else None)
        yield Table(
            ("size", "stride", "offset", "dtype", "storage", "read", "read twice or more"),
            [(self.size, self.stride, self.storage_offset, self.dtype, self.num_cells, self.num_read, self.num_shared)],
        )
        if self.drawn:
            yield self._drawing()
        if self.num_shared:
            yield Prose(_IN_PLACE[self.in_place])
        if self.alive_bytes > self.clone_bytes:
            clone, alive = format_bytes(self.clone_bytes), format_bytes(self.alive_bytes)
            yield Prose(
                f"`tensor.clone()` keeps {clone} instead of {alive}: clone before you cache or `torch.save` it."
            )

    def _verdict(self) -> str:
        alive = format_bytes(self.alive_bytes)
        if self.num_read == 0:
            return f"Reads no cell at all, and keeps {alive} alive."
        needed = format_bytes(self.needed_bytes)
        text = f"Reads {self.num_read:,} of {self.num_cells:,} storage cells: {needed} of {alive}."
        if self.num_shared:
            text += f" {self.num_shared:,} of them are read by more than one index."
        return text

    def _drawing(self) -> Grid:
        columns = _drawing_columns(self.drawn, self.stride)
        cells = [_draw(cell) for cell in self.drawn]
        rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        labels = [str(self.drawn[start].position) for start in range(0, len(cells), columns)]
        tones = {cell.tone for cell in cells}
        legend = {tone: text for tone, text in _LEGEND.items() if tone in tones}
        title = "Storage cells in memory order, each with the index that reads it."
        if None in tones:
            title += " An empty cell is kept alive and never read."
        beyond = ((self.num_cells_before, "before"), (self.num_cells_after, "after"))
        more = [f"{number:,} cells {where}" for number, where in beyond if number]
        return Grid(rows, labels, title=title + (f" Not drawn: {', '.join(more)}." if more else ""), legend=legend)


_LEGEND = {0: "read by this one index", 1: "read by more than one index: the first of them, and how many more"}
_IN_PLACE = {
    "safe": "",
    "refused": "A dimension has stride 0, so PyTorch sees the overlap and most in-place operators refuse to write here "
    "(`fill_` and `zero_` do not refuse). Write to a `clone()`.",
    "unchecked": "PyTorch's check does not see this overlap: an in-place operator will run, and write the shared cells "
    "more than once, in an order that nobody promises. Write to a `clone()`.",
}


def memory_map(tensor: torch.Tensor) -> MemoryReport:
    """Draw which storage cell each index of ``tensor`` reads, and count what is read, shared and only kept alive.

    Any strided tensor of any size, dtype and device, meta and fake tensors too: size, stride, offset and the length of
    the storage are read, and no element. Draws at most 96 cells, from the first one read where the storage is longer.
    Counts are exact; where dimensions overlap without a stride of 0, counting takes two bits per cell that they span.

    Raises :class:`NotStridedError` for what has no strides (sparse, nested, wrapper subclasses, symbolic sizes, inside
    ``vmap``) and :class:`TooLargeToCountError` for an overlapping layout that spans more than 2**30 cells.

    >>> report = memory_map(torch.arange(12).view(3, 4)[:, 1:3])
    >>> report.num_read, report.num_cells, report.needed_bytes, report.alive_bytes
    (6, 12, 48, 96)
    """
    size, stride = strided_layout(tensor, "memory_map")
    offset, itemsize = int(tensor.storage_offset()), tensor.element_size()
    alive_bytes = int(tensor.untyped_storage().nbytes())
    num_cells = alive_bytes // itemsize
    num_read, num_shared = _count(size, stride)
    first, last = _drawn_part(offset, num_cells, size, stride)
    return MemoryReport(
        size=size,
        stride=stride,
        storage_offset=offset,
        dtype=str(tensor.dtype).removeprefix("torch."),
        itemsize=itemsize,
        num_cells=num_cells,
        num_read=num_read,
        num_shared=num_shared,
        num_unread=num_cells - num_read,
        alive_bytes=alive_bytes,
        needed_bytes=num_read * itemsize,
        clone_bytes=math.prod(size) * itemsize,
        in_place=_in_place(size, stride),
        drawn=tuple(_storage_cell(position, size, stride, offset) for position in range(first, last)),
        num_cells_before=first,
        num_cells_after=num_cells - last,
    )


def strided_layout(tensor: object, tool: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return size and stride as plain integers. Raises :class:`NotStridedError` where the argument has none."""
    if not isinstance(tensor, torch.Tensor):
        raise NotStridedError(
            f"{tool} got {type(tensor).__name__}, and needs a torch.Tensor; "
            "torch.empty_strided(size, stride, device='meta') makes one of any size and stride without memory"
        )
    if tensor.is_nested:
        raise NotStridedError(
            f"{tool} got a nested tensor, whose parts have strides of their own; pass one part, e.g. tensor.unbind()[0]"
        )
    if tensor.layout is not torch.strided:
        raise NotStridedError(
            f"{tool} got a tensor of layout {tensor.layout}, which has no strides; pass tensor.to_dense(), or one of "
            "the tensors it is made of"
        )
    if is_functorch_wrapped_tensor(tensor):
        raise NotStridedError(
            f"{tool} got a tensor from inside vmap, grad or another torch.func transform, whose real strides are "
            "hidden; call it on the tensor outside the transform"
        )
    is_wrapper: bool = is_traceable_wrapper_subclass(tensor)
    if is_wrapper:
        raise NotStridedError(
            f"{tool} got a {type(tensor).__name__}, a subclass that holds other tensors; pass the inner one "
            "(for a DTensor: tensor.to_local())"
        )
    if not all(isinstance(number, int) for number in (*tensor.size(), *tensor.stride(), tensor.storage_offset())):
        raise NotStridedError(
            f"{tool} got a tensor with symbolic sizes {tuple(tensor.size())}, and needs numbers; pass a tensor of the "
            "sizes you want to know about"
        )
    return tuple(tensor.size()), tuple(tensor.stride())


# --- counting ---------------------------------------------------------------------------------------------------------


def _count(size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, int]:
    """Return how many distinct cells are read, and how many of them by two indices or more.

    From the smallest stride up: a dimension that steps over everything below it only repeats what is there. One that
    does not is entangled with it, and is counted with two bitsets (cells read once or more, twice or more).
    """
    if 0 in size:
        return 0, 0
    every_cell_twice = any(n > 1 and step == 0 for n, step in zip(size, stride))
    once, twice, pending, extent = 1, 0, [], 0
    for step, n in sorted((step, n) for n, step in zip(size, stride) if n > 1 and step > 0):
        pending.append((step, n))
        if step <= extent:
            if extent + (n - 1) * step > MAX_COUNTED_CELLS:
                raise TooLargeToCountError(
                    f"the overlapping dimensions of size {size} and stride {stride} span more than "
                    f"{MAX_COUNTED_CELLS:,} cells, too many to count exactly; pass a smaller tensor of the same kind"
                )
            for inner_step, inner_n in pending:
                once, twice = _repeat(once, twice, inner_step, inner_n)
            pending = []
        extent += (n - 1) * step
    copies = math.prod(n for _, n in pending)
    read = once.bit_count() * copies
    return read, read if every_cell_twice else twice.bit_count() * copies


def _repeat(once: int, twice: int, step: int, n: int) -> tuple[int, int]:
    """Lay ``n`` copies of a set of cells ``step`` apart, by doubling."""
    all_once, all_twice, placed = 0, 0, 0
    copies = 1
    while n:
        if n & 1:
            shift = placed * step
            all_twice |= twice << shift | (all_once & once << shift)
            all_once |= once << shift
            placed += copies
        n >>= 1
        if n:
            shift = copies * step
            once, twice = once | once << shift, twice | twice << shift | (once & once << shift)
            copies *= 2
    return all_once, all_twice


def _in_place(size: tuple[int, ...], stride: tuple[int, ...]) -> str:
    """Repeat ATen's ``has_internal_overlap`` (aten/src/ATen/MemoryOverlap.cpp): dense is safe, stride 0 is refused."""
    if 0 in size:
        return "safe"
    dims = sorted((step, n) for n, step in zip(size, stride) if n > 1)
    if all(step == math.prod(n for _, n in dims[:i]) for i, (step, _) in enumerate(dims)):
        return "safe"
    return "refused" if dims[0][0] == 0 else "unchecked"


# --- drawing ----------------------------------------------------------------------------------------------------------


def _drawn_part(offset: int, num_cells: int, size: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, int]:
    """Return the first cell to draw and the one after the last: all where they fit, else from the first one read."""
    if num_cells <= MAX_DRAWN_CELLS:
        return 0, num_cells
    largest = max(stride, default=1)
    first = offset - offset % (largest if 1 < largest <= 16 else 8)
    last_read = offset + sum((n - 1) * step for n, step in zip(size, stride) if n > 0)
    return first, min(num_cells, first + MAX_DRAWN_CELLS, last_read + 9)


def _storage_cell(position: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> StorageCell:
    readers = list(islice(_readers(position - offset, size, stride), MAX_READERS))
    return StorageCell(position, tuple(readers[:3]), len(readers))


def _readers(distance: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the indices whose element lies ``distance`` cells after the first: the solutions of sum(index × stride)."""
    if 0 in size or distance < 0:
        return
    order = sorted(range(len(size)), key=lambda d: -stride[d])
    reach = [sum((size[d] - 1) * stride[d] for d in order[i + 1 :]) for i in range(len(order))]
    index = [0] * len(size)

    def search(i: int, rest: int) -> Iterator[tuple[int, ...]]:
        if i == len(order):
            if rest == 0:
                yield tuple(index)
            return
        d = order[i]
        if stride[d] == 0:
            choices = range(size[d])
        else:
            choices = range(max(0, -((reach[i] - rest) // stride[d])), min(size[d] - 1, rest // stride[d]) + 1)
        for index[d] in choices:
            yield from search(i + 1, rest - index[d] * stride[d])

    yield from search(0, distance)


def _draw(cell: StorageCell) -> Cell:
    if not cell.num_readers:
        return Cell()
    text = ",".join(map(str, cell.readers[0])) or "()"
    if cell.num_readers == 1:
        return Cell(text, tone=0)
    more = f"+{cell.num_readers - 1}" if cell.num_readers < MAX_READERS else f"+{MAX_READERS - 1}…"
    return Cell(f"{text} {more}", tone=1, strong=True)


def _drawing_columns(cells: tuple[StorageCell, ...], stride: tuple[int, ...]) -> int:
    """Choose how many cells stand in a row: one step of the largest stride where that fits, so that rows line up."""
    width = max(len(_draw(cell).text) for cell in cells) + 4
    fitting = max(1, min(16, DRAWING_COLUMNS // width))
    largest = max(stride, default=1)
    if 1 < largest <= fitting:
        return largest
    return next((columns for columns in (16, 12, 8, 6, 4) if columns <= fitting), fitting)
