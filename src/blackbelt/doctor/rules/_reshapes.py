"""What a view does to the dims of a tensor: which it splits, which it merges, and which it scrambles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scrambled:
    """Neighboring dims (``before``) that a view turned into others (``after``) which no split and no merge leads to.

    ``size`` is that of a dim that both have, so that it was meant to be kept; ``position`` is its index in the shape
    that was asked for. ``sure`` says that the sizes allow no other reading; otherwise they could also be rows grouped
    by a factor, as in (16, 8) to (8, 16).
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    size: int
    position: int
    sure: bool


def scrambled(source: Sequence[int], target: Sequence[int]) -> Scrambled | None:
    """Return what a view from one shape to another scrambles, None where it only splits and merges neighbors.

    >>> scrambled((8, 10, 24), (8, 10, 4, 6)) is None
    True
    >>> scrambled((8, 10, 24), (8, 4, 10, 6))
    Scrambled(before=(10, 24), after=(4, 10, 6), size=10, position=2, sure=True)
    >>> scrambled((8, 5, 3), (8, 3, 5))
    Scrambled(before=(5, 3), after=(3, 5), size=5, position=2, sure=True)
    >>> scrambled((4, 16, 8), (4, 8, 16)).sure
    False
    """
    for before, after in _groups(source, target):
        sizes, wanted = [source[i] for i in before], [target[i] for i in after]
        if len(sizes) < 2 or len(wanted) < 2:
            continue
        kept = [n for n in sizes if sizes.count(n) == wanted.count(n) == 1 and _stride(sizes, n) != _stride(wanted, n)]
        if not kept:
            continue
        inner = [n for n in kept if wanted[0] != n != wanted[-1]]
        permuted = len(sizes) > 2 and sorted(sizes) == sorted(wanted)
        size = (inner or kept)[0]
        sure = permuted or bool(inner) or not _chain(sizes, wanted)
        position = next(i for i in after if target[i] == size)
        return Scrambled(tuple(sizes), tuple(wanted), size, position, sure)
    return None


def _groups(source: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest runs of dims (of size above 1, by index) with equal products."""
    left = [i for i, n in enumerate(source) if n != 1]
    right = [i for i, n in enumerate(target) if n != 1]
    if 0 in source or math.prod(source) != math.prod(target):
        return []
    groups = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while (size := math.prod(source[i] for i in a)) != (other := math.prod(target[i] for i in b)):
            (a if size < other else b).append((left if size < other else right).pop(0))
        groups.append((a, b))
    return groups


def _stride(sizes: Sequence[int], size: int) -> int:
    return math.prod(sizes[sizes.index(size) + 1 :])


def _chain(sizes: Sequence[int], wanted: Sequence[int]) -> bool:
    """Return whether rows grouped, or cut, by whole factors lead from one to the other."""
    strides = {math.prod(shape[i:]) for shape in (sizes, wanted) for i in range(1, len(shape))}
    return all(b % a == 0 for a, b in itertools.pairwise(sorted(strides)))


def step_of(sizes: tuple[int, ...], size: int) -> int:
    """Return how many values lie between one index and the next of the dim of that size."""
    step = 1
    for n in sizes[sizes.index(size) + 1 :]:
        step *= n
    return step


def correction(name: str, source: tuple[int, ...], target: tuple[int, ...]) -> str:
    """Return the call that moves dims where ``name`` (view or reshape) was to."""
    if sorted(source) == sorted(target) and len(set(source)) == len(source):
        order = [source.index(n) for n in target]
        moved = [i for i, j in enumerate(order) if i != j]
        return f"x.transpose({moved[0]}, {moved[1]})" if len(moved) == 2 else f"x.permute{tuple(order)}"
    for i, j in itertools.combinations(range(len(target)), 2):
        swapped = list(target)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        if len(target) > len(source) and scrambled(source, swapped) is None:
            return f"x.{name}{tuple(swapped)}.transpose({i}, {j})  # split first, then move"
    for i, j in itertools.combinations(range(len(source)), 2):
        swapped = list(source)
        swapped[i], swapped[j] = swapped[j], swapped[i]
        if scrambled(swapped, target) is None:
            return f"x.transpose({i}, {j}).reshape{target}  # move first, then merge"
    return "x.permute(…)  # moves dims; view only splits and merges them"
