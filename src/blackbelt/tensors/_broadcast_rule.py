"""The broadcasting rule on bare shapes, and the search for the edits that satisfy it. No tensors here."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Shape = tuple[int, ...]

# What an edit costs when the shortest fixes are chosen: adding or dropping a size-1 dimension is one step, and two
# added dimensions weigh as much as moving an axis, which changes the order of the result too.
_STEP, _MATRIX_TRANSPOSE, _TRANSPOSE = 10, 11, 20
_MOST_FIXES = 4
_MOST_RANK_SEARCHED = 8  # above it only single dimensions are added: the number of places grows with its cube


@dataclass(frozen=True)
class Fix:
    """Edits that make the operands broadcast. ``every_pair``: the result then outgrows every operand."""

    edits: tuple[str, ...]
    shape: Shape
    every_pair: bool

    @property
    def code(self) -> str:
        """The edits as one line."""
        return ", ".join(self.edits)


def columns(shapes: Sequence[Shape]) -> Iterator[tuple[int, tuple[int | None, ...]]]:
    """Yield (dimension counted from the right, sizes there), last dimension first; None where an operand has none."""
    for back in range(1, max(map(len, shapes), default=0) + 1):
        yield -back, tuple(shape[-back] if back <= len(shape) else None for shape in shapes)


def merge(sizes: Iterable[int | None]) -> int | None:
    """Return the size that one column broadcasts to, None on a conflict."""
    wide = {size for size in sizes if size is not None and size != 1}
    return None if len(wide) > 1 else wide.pop() if wide else 1


def broadcast(shapes: Sequence[Shape]) -> Shape | None:
    """Return the shape that all broadcast to, None on a conflict."""
    merged: list[int] = []
    for _, sizes in columns(shapes):
        size = merge(sizes)
        if size is None:
            return None
        merged.append(size)
    return tuple(reversed(merged))


def outgrows(shape: Shape, operands: Iterable[Shape]) -> bool:
    """Say whether ``shape`` is larger than every operand somewhere: then it holds every pair of something."""
    return not any((1,) * (len(shape) - len(operand)) + operand == shape for operand in operands)


def find_fixes(names: Sequence[str], shapes: Sequence[Shape]) -> tuple[Fix, ...]:
    """Return the cheapest edits after which the shapes broadcast; there is always one.

    Every-pair results are offered only where there is nothing else.
    """
    edits = list(_all_edits(names, shapes))
    cheap = [edit for edit in edits if edit.cost < 2 * _STEP]
    pairs = ((x, y) for x, y in itertools.combinations(cheap, 2) if x.operand != y.operand)
    found = list(_that_broadcast(itertools.chain(((edit,) for edit in edits), pairs), shapes))
    return _shortest(found) or (_one_after_another(names, shapes),)


def find_untangling(names: Sequence[str], shapes: Sequence[Shape]) -> tuple[Fix, ...]:
    """Return the single size-1 dimensions to drop or add after which the result is as large as the largest operand."""
    steps = [(edit,) for edit in _all_edits(names, shapes, most_added=1) if edit.cost == _STEP]
    largest = max(math.prod(shape) for shape in shapes)
    found = [item for item in _that_broadcast(steps, shapes) if math.prod(item.fix.shape) == largest]
    return _shortest([item for item in found if not item.fix.every_pair])


@dataclass(frozen=True)
class _Edit:
    operand: int
    code: str
    shape: Shape
    cost: int


@dataclass(frozen=True)
class _Found:
    fix: Fix
    cost: int
    num_edited: int  # elements of the operands that change shape: the smaller operand is the one to reshape


def _all_edits(names: Sequence[str], shapes: Sequence[Shape], most_added: int = 3) -> Iterator[_Edit]:
    for operand, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        yield from _edits(operand, name, shape, most_added if len(shape) <= _MOST_RANK_SEARCHED else 1)


def _edits(operand: int, name: str, shape: Shape, most_added: int) -> Iterator[_Edit]:
    """Yield every edit of one operand worth trying: add up to so many size-1 dimensions, drop one, or swap two."""
    rank = len(shape)
    for count in range(1, most_added + 1):
        for places in itertools.combinations_with_replacement(range(rank + 1), count):
            yield _Edit(operand, *_insert(name, shape, places), _STEP * count)
    for dim in (i for i, size in enumerate(shape) if size == 1):
        yield _Edit(operand, f"{name}.squeeze({dim})", shape[:dim] + shape[dim + 1 :], _STEP)
    for left, right in itertools.combinations(range(rank), 2):
        swapped = list(shape)
        swapped[left], swapped[right] = shape[right], shape[left]
        if (left, right) == (rank - 2, rank - 1):
            yield _Edit(operand, f"{name}.mT", tuple(swapped), _MATRIX_TRANSPOSE)
        else:
            yield _Edit(operand, f"{name}.transpose({left}, {right})", tuple(swapped), _TRANSPOSE)


def _insert(name: str, shape: Shape, places: Sequence[int]) -> tuple[str, Shape]:
    """Spell the insertion of size-1 dimensions before the given places, and return the shape it gives."""
    rank = len(shape)
    sizes: list[int] = []
    index: list[str] = []
    for dim in range(rank + 1):
        new = places.count(dim)
        sizes += [1] * new + list(shape[dim : dim + 1])
        index += ["None"] * new + [":"] * (dim < rank)
    if len(places) == 1:
        code = f"{name}.unsqueeze({-1 if places[0] == rank > 1 else places[0]})"
    elif set(places) == {rank} and rank > 1:
        code = f"{name}[{', '.join(['...'] + ['None'] * len(places))}]"
    else:
        while index[-1] == ":":
            index.pop()
        code = f"{name}[{', '.join(index)}]"
    return code, tuple(sizes)


def _that_broadcast(candidates: Iterable[Sequence[_Edit]], shapes: Sequence[Shape]) -> Iterator[_Found]:
    for candidate in candidates:
        edited = list(shapes)
        for edit in candidate:
            edited[edit.operand] = edit.shape
        result = broadcast(edited)
        if result is not None:
            fix = Fix(tuple(edit.code for edit in candidate), result, outgrows(result, edited))
            yield _Found(fix, sum(edit.cost for edit in candidate), sum(math.prod(edit.shape) for edit in candidate))


def _shortest(found: Sequence[_Found]) -> tuple[Fix, ...]:
    """Keep what costs less than a step more than the cheapest: smallest result first, then smallest operand edited."""
    every_pair = all(item.fix.every_pair for item in found)
    kind = [item for item in found if item.fix.every_pair == every_pair]
    least = min((item.cost for item in kind), default=0)
    near = [item for item in kind if item.cost < least + _STEP]
    near.sort(key=lambda item: (math.prod(item.fix.shape), item.num_edited, item.cost, len(item.fix.shape)))
    return tuple(item.fix for item in near[:_MOST_FIXES])


def _one_after_another(names: Sequence[str], shapes: Sequence[Shape]) -> Fix:
    """Give each operand that does not fit dimensions of its own, to the left of all before it."""
    done, edits, result = [shapes[0]], [], shapes[0]
    for name, shape in zip(names[1:], shapes[1:], strict=True):
        fitted = shape
        if broadcast([*done, shape]) is None:
            code, fitted = _insert(name, shape, (len(shape),) * max(map(len, done)))
            edits.append(code)
        done.append(fitted)
        result = broadcast(done) or ()
    return Fix(tuple(edits), result, outgrows(result, done))
