"""``explain_view(tensor, shape)``: may this tensor be viewed in that shape, why not, and what works instead."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blackbelt.report import Block, Cell, Grid, Prose, Report, Table, Verdict, format_bytes
from blackbelt.tensors._reshaping import Shape, Way, ways_around_count, ways_around_layout
from blackbelt.tensors.memory import MemoryReport, NotStridedError, memory_map, strided_layout

__all__ = [
    "Chunk",
    "MemoryReport",
    "NotStridedError",
    "ShapeTypeError",
    "ViewReport",
    "Way",
    "explain_view",
    "memory_map",
    "view_stride",
]

_INT64 = 2**64


class ShapeTypeError(TypeError):
    """The shape is not made of integers."""


class _Refused(Exception):
    def __init__(self, problem: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = problem
        self.reason = reason


@dataclass(frozen=True)
class Chunk:
    """Neighboring dimensions of a tensor that are one run in memory: ``numel`` elements, ``stride`` apart.

    ``new_dims`` are the dimensions of the new shape that are cut from this run.
    """

    dims: Shape
    numel: int
    stride: int
    new_dims: Shape = ()


@dataclass(frozen=True)
class ViewReport(Report):
    """Whether ``tensor.view(shape)`` works, and why.

    ``problem`` is ``""`` where it does, else ``"layout"`` (the memory is not laid out for it), ``"count"`` (another
    number of elements) or ``"shape"`` (no tensor has such a shape). ``result_shape`` has the -1 filled in. For a layout
    problem, ``failed_dim`` is the dimension of the new shape that would run across two chunks, and ``failed_between``
    the two dimensions of the tensor between which memory jumps. ``ways`` holds code that works: first what keeps the
    order of the elements, cheapest first. ``bytes_copied`` is what the first of them copies.
    """

    size: Shape
    stride: Shape
    itemsize: int
    shape: Shape
    possible: bool
    problem: str
    reason: str
    result_shape: Shape | None = None
    result_stride: Shape | None = None
    chunks: tuple[Chunk, ...] = ()
    failed_dim: int | None = None
    failed_between: tuple[int, int] | None = None
    ways: tuple[Way, ...] = ()
    bytes_copied: int = 0

    def blocks(self) -> Iterator[Block]:
        call = f"`.view({', '.join(map(str, self.shape)) or '()'})`"
        of = f"a tensor of size {self.size} and stride {self.stride}"
        if self.possible:
            yield Verdict(f"{call} of {of} works and copies nothing.", True)
        else:
            yield Verdict(f"{call} of {of} is refused.", False)
        yield Prose(self.reason)
        if self.chunks:
            yield self._drawing()
        if self.ways:
            rows = [(f"`{way.code}`", format_bytes(way.bytes_copied), way.note) for way in self.ways]
            yield Table(("what works", "copies", ""), rows)

    def _drawing(self) -> Grid:
        home = {dim: i for i, chunk in enumerate(self.chunks) for dim in chunk.dims}
        new_home = {dim: i for i, chunk in enumerate(self.chunks) for dim in chunk.new_dims}
        rows = [
            [Cell(str(n), home.get(d, 0) % 6) for d, n in enumerate(self.size)],
            [Cell(str(step), home.get(d, 0) % 6) for d, step in enumerate(self.stride)],
            [
                Cell(str(n), new_home[d] % 6 if d in new_home else None, strong=d == self.failed_dim)
                for d, n in enumerate(self.result_shape or ())
            ],
        ]
        labels = ["size", "stride", "new size"]
        if self.result_stride is not None:
            rows.append([Cell(str(step), new_home.get(d, 0) % 6) for d, step in enumerate(self.result_stride)])
            labels.append("new stride")
        legend = {
            i: f"one run of {chunk.numel:,} elements, {chunk.stride:,} apart" for i, chunk in enumerate(self.chunks[:6])
        }
        title = "Which run of memory each dimension belongs to"
        title += "; the framed one would cross from one run into another." if self.failed_dim is not None else "."
        return Grid(rows, labels, title=title, legend=legend)


def explain_view(tensor: torch.Tensor, *shape: Any) -> ViewReport:
    """Explain whether ``tensor.view(shape)`` is possible, and what to do where it is not.

    ``shape`` as for ``view``: a tuple, or sizes one by one, with at most one -1. Only the tensor's size and stride are
    read, so any dtype and device will do, meta and fake tensors too; ``view`` itself is never tried. The rule is ATen's
    ``computeStride_impl`` (aten/src/ATen/TensorUtils.cpp) after ``infer_size`` (aten/src/ATen/InferSize.h).

    Raises :class:`NotStridedError` for what has no strides, :class:`ShapeTypeError` for a shape not made of integers.
    A shape that no view can have is no error but the answer: ``possible`` is False.

    >>> transposed = torch.empty(4, 6).t()
    >>> explain_view(transposed, 24).possible, explain_view(transposed, 2, 3, 4).result_stride
    (False, (3, 1, 6))
    >>> explain_view(transposed, 24).ways[0].code
    'tensor.reshape(24)'
    """
    size, stride = strided_layout(tensor, "explain_view")
    asked, itemsize = _as_shape(shape), tensor.element_size()
    try:
        wanted = _infer(asked, math.prod(size))
    except _Refused as refused:
        fits = () if refused.problem == "shape" else ways_around_count(size, asked)
        ways = tuple(_way_to(fit, size, stride, itemsize) for fit in fits)
        return ViewReport(size, stride, itemsize, asked, False, refused.problem, refused.reason, ways=ways)
    new_stride = view_stride(size, stride, wanted)
    chunks, failed_dim = _match(_chunks(size, stride), wanted) if math.prod(size) else ((), None)
    if new_stride is not None:
        reason = _why_possible(size, stride, wanted, new_stride)
        ways = (_way_to(wanted, size, stride, itemsize),)
        return ViewReport(size, stride, itemsize, asked, True, "", reason, wanted, new_stride, chunks, ways=ways)
    assert failed_dim is not None
    run = next(chunk for chunk in chunks if failed_dim in chunk.new_dims)
    ways = ways_around_layout(size, stride, wanted, itemsize, view_stride)
    return ViewReport(
        size,
        stride,
        itemsize,
        asked,
        possible=False,
        problem="layout",
        reason=_why_refused(stride, wanted, run, failed_dim),
        result_shape=wanted,
        chunks=chunks,
        failed_dim=failed_dim,
        failed_between=(run.dims[0] - 1, run.dims[0]),
        ways=ways,
        bytes_copied=ways[0].bytes_copied,
    )


def view_stride(size: Sequence[int], stride: Sequence[int], shape: Sequence[int]) -> Shape | None:
    """Return the strides of a view of ``shape`` (no -1, same number of elements), or None where there is no such view.

    >>> view_stride((6, 4), (1, 6), (2, 3, 4)), view_stride((6, 4), (1, 6), (24,))
    ((3, 1, 6), None)
    """
    if 0 in size:
        return tuple(stride) if tuple(size) == tuple(shape) else _stride_of_nothing(shape)
    chunks, failed_dim = _match(_chunks(size, stride), shape)
    if failed_dim is not None:
        return None
    result = [1] * len(shape)
    for chunk in chunks:
        step = chunk.stride
        for dim in reversed(chunk.new_dims):
            result[dim] = step
            step *= shape[dim]
    return tuple(result)


# --- the rule ---------------------------------------------------------------------------------------------------------


def _as_shape(shape: tuple[Any, ...]) -> Shape:
    items = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    sizes = []
    for item in items:
        try:
            size = None if isinstance(item, bool) else operator.index(item)
        except (TypeError, RuntimeError):
            size = None
        if size is None:
            raise ShapeTypeError(
                f"explain_view got the shape {items!r}, in which {item!r} is {type(item).__name__} and not an integer; "
                "pass sizes such as (4, 6), (4, -1) or 24"
            )
        if abs(size) >= 2**63:
            raise ShapeTypeError(f"explain_view got the size {size}, which does not fit in 64 bits; pass a smaller one")
        sizes.append(size)
    return tuple(sizes)


def _infer(shape: Shape, numel: int) -> Shape:
    """Fill in the -1. The order of the checks is that of ``infer_size_impl`` (aten/src/ATen/InferSize.h)."""
    unknown: int | None = None
    for dim, n in enumerate(shape):
        if n == -1 and unknown is not None:
            raise _Refused("shape", f"Dimensions {unknown} and {dim} are both -1; one can be inferred: say the other.")
        if n < -1:
            raise _Refused("shape", f"Dimension {dim} is {n}: a size is 0 or more, or -1 once, for the one to infer.")
        unknown = dim if n == -1 else unknown
    known = math.prod(n for n in shape if n != -1)
    if unknown is None:
        if known != numel or _overflows(shape):
            gap = _gap(known, numel)
            raise _Refused(
                "count", f"{numel:,} elements do not fill the shape {shape}, which has room for {known:,}: {gap}."
            )
        return shape
    if known == 0 and numel == 0:
        raise _Refused("count", f"0 elements fit {shape} with any size in place of the -1: say which.")
    if known == 0 or numel % known or known >= 2**63:
        raise _Refused("count", f"{numel:,} elements do not divide into {known:,} equal parts, so no size fits the -1.")
    return (*shape[:unknown], numel // known, *shape[unknown + 1 :])


def _overflows(shape: Sequence[int]) -> bool:
    product = 1
    for n in shape:
        product *= n
        if product >= 2**63:
            return True
    return False


def _gap(known: int, numel: int) -> str:
    return f"{known - numel:,} too many" if known > numel else f"{numel - known:,} are left over"


def _chunks(size: Sequence[int], stride: Sequence[int]) -> list[Chunk]:
    """Cut the tensor's dimensions into runs, last run first.

    A dimension joins the run on its right where one step of it is exactly that whole run, or where its size is 1.
    """
    chunks: list[Chunk] = []
    last = len(size) - 1
    numel = 1
    for dim in range(len(size) - 1, -1, -1):
        numel *= size[dim]
        if dim == 0 or (size[dim - 1] != 1 and stride[dim - 1] != numel * stride[last]):
            chunks.append(Chunk(tuple(range(dim, last + 1)), numel, stride[last]))
            last, numel = dim - 1, 1
    return chunks or [Chunk((), 1, 1)]


def _match(chunks: list[Chunk], shape: Sequence[int]) -> tuple[tuple[Chunk, ...], int | None]:
    """Cut the new shape, from its end, out of the runs. Both must hold the same number of elements, above 0.

    Returns the runs in reading order, and the new dimension that does not fit into one run, or None.
    """
    matched: list[Chunk] = []
    dim, failed_dim = len(shape) - 1, None
    for chunk in chunks:
        taken, numel = [], 1
        while failed_dim is None and dim >= 0 and (numel < chunk.numel or shape[dim] == 1):
            numel *= shape[dim]
            taken.append(dim)
            dim -= 1
        if failed_dim is None and numel != chunk.numel:
            failed_dim = taken[-1]
        matched.append(Chunk(chunk.dims, chunk.numel, chunk.stride, tuple(reversed(taken))))
    return tuple(reversed(matched)), failed_dim


def _stride_of_nothing(shape: Sequence[int]) -> Shape:
    """Strides of a tensor of no elements, in 64 bits that wrap as ATen's do."""
    result: list[int] = []
    for dim in range(len(shape) - 1, -1, -1):
        step = max(shape[dim + 1], 1) * result[-1] if result else 1
        result.append((step + 2**63) % _INT64 - 2**63)
    return tuple(reversed(result))


# --- words ------------------------------------------------------------------------------------------------------------


def _why_possible(size: Shape, stride: Shape, wanted: Shape, new_stride: Shape) -> str:
    if wanted == size and new_stride == stride:
        return "It has this shape already."
    if 0 in size:
        return "A tensor without elements can be viewed in any shape without elements."
    return (
        f"Every new size is cut from one run of memory: strides {new_stride} walk the same elements in the same order."
    )


def _why_refused(stride: Shape, wanted: Shape, run: Chunk, dim: int) -> str:
    left = run.dims[0] - 1
    dims = f"dimension {run.dims[0]} is" if len(run.dims) == 1 else f"dimensions {run.dims[0]} to {run.dims[-1]} are"
    inside = math.prod(wanted[d] for d in run.new_dims if d != dim)
    after = f" and the {inside:,} of the sizes after it" if inside > 1 else ""
    return (
        f"Tensor {dims} one run of memory: {run.numel:,} elements, {run.stride:,} apart. New dimension {dim}, of size "
        f"{wanted[dim]:,}{after}, would have to leave that run and go on into tensor dimension {left}. Going on evenly "
        f"needs stride[{left}] to be {run.numel:,} × {run.stride:,} = {run.numel * run.stride:,}, and it is "
        f"{stride[left]:,}. One dimension has one stride, so no view can do it."
    )


def _way_to(shape: Shape, size: Shape, stride: Shape, itemsize: int) -> Way:
    sizes = ", ".join(map(str, shape)) or "()"
    if view_stride(size, stride, shape) is not None:
        return Way(f"tensor.view({sizes})", 0, True, "shares the memory of the tensor")
    return Way(f"tensor.reshape({sizes})", math.prod(size) * itemsize, True, "copies every element")
