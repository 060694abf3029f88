"""Explain how shapes broadcast: who is stretched where, what it costs, and what to write when it fails."""

from __future__ import annotations

import itertools
import math
import numbers
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from blackbelt.report import Block, Prose, Report, Table, Verdict, format_bytes
from blackbelt.tensors._broadcast_rule import (
    Fix,
    Shape,
    broadcast,
    columns,
    find_fixes,
    find_untangling,
    merge,
    outgrows,
)

TensorOrShape = torch.Tensor | Sequence[int] | int


class BroadcastInputError(ValueError):
    """A shape that no tensor can have, or nothing to broadcast."""


class BroadcastTypeError(TypeError):
    """Something that is neither a tensor nor a shape."""


@dataclass(frozen=True)
class Operand:
    """One input. ``num_bytes``: memory it occupies, a stride-0 dimension counted once; None for a bare shape."""

    name: str
    shape: Shape
    dtype: str | None = None
    num_bytes: int | None = None


@dataclass(frozen=True)
class AlignedDimension:
    """One column of the alignment. ``sizes`` follows the operands, None where an operand has no such dimension.

    ``result`` is None where the sizes conflict; ``stretched`` names the operands that are read again and again here.
    """

    from_right: int
    from_left: int
    sizes: tuple[int | None, ...]
    result: int | None
    stretched: tuple[str, ...]


@dataclass(frozen=True)
class Conflict:
    """The dimension PyTorch stops at, counted from both ends, who disagrees there, and PyTorch's own words."""

    from_right: int
    from_left: int
    operands: tuple[str, str]
    sizes: tuple[int, int]
    message: str


@dataclass(frozen=True)
class BroadcastReport(Report):
    """How the operands broadcast. ``shape`` is None when they do not; sizes are counted in ``unit``.

    ``unit`` is ``"bytes"`` when every operand is a tensor, otherwise ``"elements"``. ``fixes`` holds, after a failure,
    the shortest edits that would broadcast; beside a ``warning``, edits that would keep both sides from stretching.
    """

    possible: bool
    operands: tuple[Operand, ...]
    dimensions: tuple[AlignedDimension, ...]
    shape: Shape | None
    dtype: str | None
    unit: str
    input_size: int
    result_size: int | None
    conflict: Conflict | None
    warning: str | None
    fixes: tuple[Fix, ...]

    def blocks(self) -> Iterable[Block]:
        """Verdict, alignment table, sizes; then PyTorch's words and the fixes, where there are any."""
        yield self._verdict()
        if self.dimensions:
            yield self._alignment()
        if self.result_size is not None:
            yield Prose(self._sizes(self.result_size))
        if self.conflict is not None:
            yield Prose(f"PyTorch says: {self.conflict.message}")
            if len(self.operands) > 2:
                yield Prose("Its tensor a is what it has broadcast so far, its tensor b the operand that did not fit.")
        if self.warning is not None:
            yield Prose(self.warning)
        if self.fixes:
            yield Prose("Shortest fixes:" if self.conflict is not None else "If you meant element by element:")
            yield self._fix_table()
            if self.conflict is not None and all(fix.every_pair for fix in self.fixes):
                left, right = self.conflict.sizes
                yield Prose(
                    f"Each of these computes every pair. If {left} and {right} were meant to be equal, no reshaping "
                    "helps: look for the line that made them differ."
                )

    def _verdict(self) -> Verdict:
        if self.conflict is not None:
            (first, second), (left, right) = self.conflict.operands, self.conflict.sizes
            return Verdict(
                f"They do not broadcast: dimension {self.conflict.from_right} is {left} in {first} and {right} in "
                f"{second}, and neither is 1.",
                False,
            )
        stretched = [operand.name for operand in self.operands if self._is_stretched(operand.name)]
        if self.warning is not None:
            return Verdict(f"They broadcast to {self.shape}, and both sides stretch: {_listed(stretched)}.", None)
        if not stretched:
            return Verdict(f"They broadcast to {self.shape}: nothing is stretched.", True)
        return Verdict(f"They broadcast to {self.shape}: {_listed(stretched)} {_are(stretched)} stretched.", True)

    def _is_stretched(self, name: str) -> bool:
        return any(name in dimension.stretched for dimension in self.dimensions)

    def _alignment(self) -> Table:
        names = [operand.name for operand in self.operands]
        rows = [
            (
                d.from_right,
                d.from_left,
                *("–" if size is None else size for size in d.sizes),
                _or_dash(d.result),
                _event(d, names),
            )
            for d in self.dimensions
        ]
        marked = frozenset(i for i, d in enumerate(self.dimensions) if d.result is None)
        return Table(("from right", "from left", *names, "result", "what happens"), rows, marked=marked)

    def _sizes(self, result_size: int) -> str:
        ratio = _ratio(result_size, self.input_size)
        if self.unit == "elements":
            return f"The result has {result_size:,} elements, the inputs together {self.input_size:,}{ratio}."
        return (
            f"The result takes {format_bytes(result_size)} as {self.dtype}, "
            f"the inputs together {format_bytes(self.input_size)}{ratio}."
        )

    def _fix_table(self) -> Table:
        rows = [(fix.code, str(fix.shape), "every pair" if fix.every_pair else "") for fix in self.fixes]
        if any(fix.every_pair for fix in self.fixes):
            return Table(("write", "result", "computes"), rows)
        return Table(("write", "result"), [row[:2] for row in rows])


def explain_broadcast(*tensors_or_shapes: TensorOrShape, **named: TensorOrShape) -> BroadcastReport:
    """Explain how tensors or shapes broadcast together.

    Shapes may be tuples, lists, ``torch.Size`` or a single int; operands are called a, b, c … or by the keyword they
    are passed under. Only metadata is read: any device, nothing is copied or computed, no tensor changes. The rule is
    that of ``at::infer_size`` (aten/src/ATen/ExpandUtils.cpp). Bytes are those of arithmetic between the operands, in
    the dtype that ``torch.result_type`` gives; a comparison takes one byte an element.

    Raises:
        BroadcastInputError: nothing was passed, or a size is negative.
        BroadcastTypeError: an operand is neither a tensor nor a shape of ints.

    >>> report = explain_broadcast((32, 1), (32,))
    >>> report.shape, [fix.code for fix in report.fixes]
    ((32, 32), ['a.squeeze(1)', 'b.unsqueeze(1)'])
    >>> explain_broadcast(image=(3, 224, 224), mean=(3,)).fixes[0].code
    'mean[:, None, None]'
    """
    if not tensors_or_shapes and not named:
        raise BroadcastInputError(
            "Nothing was passed; expected tensors or shapes. "
            "Try explain_broadcast((32, 1), (32,)) or explain_broadcast(x, y)."
        )
    operands = _name_operands(tensors_or_shapes, named)
    read = tuple(_read_operand(name, value) for name, value in operands.items())
    names, shapes = [operand.name for operand in read], [operand.shape for operand in read]
    shape = broadcast(shapes)
    tensors = [value for value in operands.values() if isinstance(value, torch.Tensor)]
    dtype = _result_dtype(tensors) if len(tensors) == len(operands) else None
    in_bytes = dtype is not None
    num_elements = None if shape is None else math.prod(shape)
    warning = None if shape is None else _warn_of_pairs(read, shape)
    return BroadcastReport(
        possible=shape is not None,
        operands=read,
        dimensions=_align(names, shapes),
        shape=shape,
        dtype=None if dtype is None else _dtype_name(dtype),
        unit="bytes" if in_bytes else "elements",
        input_size=sum((operand.num_bytes or 0) if in_bytes else math.prod(operand.shape) for operand in read),
        result_size=num_elements if num_elements is None or dtype is None else num_elements * dtype.itemsize,
        conflict=_find_conflict(names, shapes) if shape is None else None,
        warning=warning,
        fixes=find_fixes(names, shapes) if shape is None else find_untangling(names, shapes) if warning else (),
    )


# --- reading what was passed ------------------------------------------------------------------------------------------


def _name_operands(positional: Sequence[TensorOrShape], named: Mapping[str, TensorOrShape]) -> dict[str, TensorOrShape]:
    numbered = (f"{letter}{number or ''}" for number in itertools.count() for letter in string.ascii_lowercase)
    free = (name for name in numbered if name not in named)
    return {**dict(zip(free, positional, strict=False)), **named}


def _read_operand(name: str, value: object) -> Operand:
    if isinstance(value, torch.Tensor):
        return Operand(name, tuple(value.shape), _dtype_name(value.dtype), _occupied_bytes(value))
    if _is_whole(value):
        value = (value,)
    if not isinstance(value, (tuple, list)):
        raise BroadcastTypeError(
            f"Operand {name} is {value!r:.60} ({type(value).__name__}); expected a tensor or a shape such as "
            f"(32, 1). Try {_suggest_operand(value)}."
        )
    for size in value:
        if not _is_whole(size):
            raise BroadcastTypeError(
                f"Operand {name} is the shape {value!r:.60}, whose size {size!r:.30} is a {type(size).__name__}; "
                "expected whole numbers. Try int(…) on it, or pass the tensor itself."
            )
        if size < 0:
            raise BroadcastInputError(
                f"Operand {name} is the shape {value!r:.60}, with the negative size {size}; expected sizes of 0 or "
                "more. Write out what -1 stands for: only view, reshape and expand infer it."
            )
    return Operand(name, tuple(int(size) for size in value))


def _is_whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _suggest_operand(value: object) -> str:
    if hasattr(value, "__array__") or isinstance(value, float):
        return f"torch.as_tensor({'…' if hasattr(value, '__array__') else value})"
    return "(32, 1) without quotes" if isinstance(value, str) else "x.shape, or the tensor itself"


def _occupied_bytes(tensor: torch.Tensor) -> int:
    if tensor.layout is not torch.strided:
        return tensor.numel() * tensor.element_size()
    distinct = math.prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0
    )
    return distinct * tensor.element_size()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _result_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype | None:
    """Promote as TensorIterator does: a tensor without dimensions counts only where its category is higher."""
    groups: list[torch.dtype] = []
    try:
        for dimensioned in (True, False):
            dtypes = [tensor.dtype for tensor in tensors if (tensor.dim() > 0) == dimensioned]
            if dtypes:
                promoted = dtypes[0]
                for dtype in dtypes[1:]:
                    promoted = torch.promote_types(promoted, dtype)
                groups.append(promoted)
        if len(groups) == 1:
            return groups[0]
        with_dims, without = (torch.empty(s, dtype=d, device="meta") for s, d in zip(((1,), ()), groups, strict=True))
        return torch.result_type(with_dims, without)
    except RuntimeError:  # some pairs (float8 with anything else) promote to nothing
        return None


# --- the alignment ----------------------------------------------------------------------------------------------------


def _align(names: Sequence[str], shapes: Sequence[Shape]) -> tuple[AlignedDimension, ...]:
    rank = max(map(len, shapes), default=0)
    aligned = []
    for dim, sizes in columns(shapes):
        result = merge(sizes)
        stretched = [
            n for n, size in zip(names, sizes, strict=True) if result is not None and result != 1 and size in (1, None)
        ]
        aligned.append(AlignedDimension(dim, rank + dim, sizes, result, tuple(stretched)))
    return tuple(reversed(aligned))


def _find_conflict(names: Sequence[str], shapes: Sequence[Shape]) -> Conflict:
    """Find where PyTorch stops: it folds operands left to right and compares each pair from the last dimension."""
    last = next(i for i in range(2, len(shapes) + 1) if broadcast(shapes[:i]) is None) - 1
    folded = broadcast(shapes[:last]) or ()
    dim = next(d for d, sizes in columns([folded, shapes[last]]) if merge(sizes) is None)
    left, right = folded[dim], shapes[last][dim]
    culprit = next(name for name, shape in zip(names, shapes, strict=True) if len(shape) >= -dim and shape[dim] == left)
    from_left = max(len(folded), len(shapes[last])) + dim
    words = f"The size of tensor a ({left}) must match the size of tensor b ({right}) at non-singleton dimension"
    return Conflict(dim, max(map(len, shapes)) + dim, (culprit, names[last]), (left, right), f"{words} {from_left}")


def _warn_of_pairs(operands: Sequence[Operand], shape: Shape) -> str | None:
    """Return the warning when no operand has the result's size in every dimension."""
    if not outgrows(shape, [operand.shape for operand in operands]):
        return None
    largest = max(operands, key=lambda operand: math.prod(operand.shape))
    growth = math.prod(shape) / max(1, math.prod(largest.shape))
    times = f", {growth:,.4g} times as many elements as {largest.name}, the largest" if growth > 1 else ""
    return (
        f"No operand has the shape of the result: it holds every pair{times}. That is right for an outer "
        "operation, and wrong for a loss or a residual, where nothing else will tell you."
    )


# --- words ------------------------------------------------------------------------------------------------------------


def _event(dimension: AlignedDimension, names: Sequence[str]) -> str:
    if dimension.result is None:
        return "conflict: " + ", ".join(
            f"{name} has {size}" for name, size in zip(names, dimension.sizes, strict=True) if size not in (1, None)
        )
    missing = [n for n in dimension.stretched if dimension.sizes[names.index(n)] is None]
    ones = [n for n in dimension.stretched if n not in missing]
    parts = [f"{_listed(ones)}: 1 → {dimension.result}"] if ones else []
    parts += [f"{_listed(missing)}: none → {dimension.result}"] if missing else []
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _or_dash(size: int | None) -> object:
    return "✗" if size is None else size


def _ratio(result: int, inputs: int) -> str:
    return f": {result / inputs:.3g} times" if inputs and result / inputs >= 1.05 else ""
