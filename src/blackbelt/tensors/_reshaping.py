"""Ways to the shape that ``view`` refuses, cheapest first, each with the bytes it copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
ViewStride = Callable[[Sequence[int], Sequence[int], Sequence[int]], "Shape | None"]


@dataclass(frozen=True)
class Way:
    """Code that works on a tensor named ``tensor``, and the bytes it copies.

    ``same_order`` says whether the elements stand in the order that was asked for.
    """

    code: str
    bytes_copied: int
    same_order: bool
    note: str


def ways_around_layout(
    size: Shape, stride: Shape, shape: Shape, itemsize: int, view_stride: ViewStride
) -> tuple[Way, ...]:
    """Return the ways to ``shape`` for a tensor that cannot be viewed so: those in the same order first, then by cost.

    Always ``reshape``. Where stretched dimensions (stride 0) stay apart from the others, copying what they repeat once
    and stretching it again. Where one dimension is to hold several, viewing those in their memory order.
    """
    segments = _segments(size, shape)
    ways = [Way(f"tensor.reshape({_sizes(shape)})", math.prod(size) * itemsize, True, "copies every element")]
    stretched = [s for s in segments if _is_stretched(s[0], size, stride)]
    if stretched:
        ways.append(_copy_one_row(size, shape, stretched, itemsize))
    permutation = _memory_order(segments, stride, shape)
    if permutation is not None:
        permuted_size, permuted_stride = [size[d] for d in permutation], [stride[d] for d in permutation]
        if view_stride(permuted_size, permuted_stride, shape) is not None:
            code = f"tensor.permute({_sizes(permutation)}).view({_sizes(shape)})"
            ways.append(Way(code, 0, False, "the same elements in another order: their order in memory"))
    return tuple(sorted(ways, key=lambda way: (not way.same_order, way.bytes_copied)))


def ways_around_count(size: Shape, shape: Shape) -> tuple[Shape, ...]:
    """Return up to three shapes that hold as many elements as ``size`` and differ from ``shape`` in one dimension."""
    numel = math.prod(size)
    inferred = -1 in shape
    if numel == 0 and inferred:
        return (tuple(0 if n == -1 else n for n in shape),)
    found = []
    for dim, n in enumerate(shape):
        others = math.prod(m for d, m in enumerate(shape) if d != dim and m != -1)
        if n == -1 or others == 0 or numel % others:
            continue
        fit = _nearest_divisor(numel // others, n) if inferred else numel // others
        new = (*shape[:dim], fit, *shape[dim + 1 :])
        found.append(tuple(numel // (others * fit) if m == -1 else m for m in new))
    return tuple(dict.fromkeys(found))[:3] or (_nearest_shape(numel, shape),)


def _segments(size: Shape, shape: Shape) -> list[tuple[range, range]]:
    """Cut both shapes into the smallest groups that hold equally many elements: (2, 3 | 4) and (6 | 4)."""
    segments, old, new = [], 0, 0
    while old < len(size) or new < len(shape):
        old_start, new_start, old_numel, new_numel = old, new, 1, 1
        while True:
            if old < len(size) and (old_numel <= new_numel or new == len(shape)):
                old_numel, old = old_numel * size[old], old + 1
            else:
                new_numel, new = new_numel * shape[new], new + 1
            if old_numel == new_numel:
                break
        segments.append((range(old_start, old), range(new_start, new)))
    return segments


def _is_stretched(dims: range, size: Shape, stride: Shape) -> bool:
    real = [d for d in dims if size[d] > 1]
    return bool(real) and all(stride[d] == 0 for d in real)


def _copy_one_row(size: Shape, shape: Shape, stretched: list[tuple[range, range]], itemsize: int) -> Way:
    old = {d for dims, _ in stretched for d in dims}
    new = {d for _, dims in stretched for d in dims}
    index = ", ".join(":1" if d in old else ":" for d in range(max(old) + 1))
    small = tuple(1 if d in new else n for d, n in enumerate(shape))
    copied = math.prod(n for d, n in enumerate(size) if d not in old) * itemsize
    code = f"tensor[{index}].reshape({_sizes(small)}).expand({_sizes(shape)})"
    return Way(code, copied, True, "copies what the stretched dimension repeats once")


def _memory_order(segments: list[tuple[range, range]], stride: Shape, shape: Shape) -> Shape | None:
    """Return the permutation that puts each group of dimensions to be flattened into memory order."""
    order: list[int] = []
    for old, new in segments:
        ordered = sorted(old, key=lambda d: -stride[d])
        if ordered != list(old) and sum(shape[d] != 1 for d in new) != 1:
            return None
        order += ordered
    return tuple(order)


def _nearest_shape(numel: int, shape: Shape) -> Shape:
    """Return a shape of ``numel`` elements with as many dimensions, each but the last as near as divisors allow."""
    new: list[int] = []
    for n in shape[:-1]:
        new.append(_nearest_divisor(numel // math.prod(new), n) if numel else n)
    return (*new, numel // math.prod(new) if numel else 0)


def _nearest_divisor(number: int, wish: int) -> int:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = {*small, *(number // d for d in small)}
    return min(divisors, key=lambda d: (abs(d - wish), d))


def _sizes(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape)) or "()"
