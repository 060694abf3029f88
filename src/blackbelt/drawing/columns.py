"""Coordinates for a layered drawing whose layers are in order: what continues what stands straight below it.

Boxes and bends are aligned into columns, after Brandes and Köpf, "Fast and simple horizontal coordinate assignment"
(2002): first the bends of one edge, then boxes along the longest paths, never two alignments that cross. Columns then
move, one at a time, toward the boxes they are joined to, as far as their neighbors in every layer let them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

SWEEPS = 40

Link = tuple[int, int]


def centers(
    rows: Sequence[Sequence[int]], widths: Sequence[float], links: Sequence[Link], is_bend: Sequence[bool], gap: float
) -> list[float]:
    """Return the middle of every item. ``rows`` are the layers in order; ``links`` join items of neighboring layers."""
    position = {item: index for row in rows for index, item in enumerate(row)}
    column_of, columns = _columns(rows, links, is_bend, position)
    left, right = _neighbors(rows, widths, column_of, len(columns), gap)
    order = _left_to_right(left, right)
    x = [0.0] * len(columns)
    for column in order:
        x[column] = max((x[other] + room for other, room in left[column].items()), default=0.0)
    for column in reversed(order):  # what the first pass pushed to the left end comes back to its neighbors
        if right[column] and left[column] == {}:
            x[column] = min(x[other] - room for other, room in right[column].items())
    joined = _joined(links, column_of, len(columns))
    for sweep in range(SWEEPS):
        for column in order if sweep % 2 else reversed(order):
            if not joined[column]:
                continue
            weight = sum(joined[column].values())
            wish = sum(x[other] * strength for other, strength in joined[column].items()) / weight
            low = max((x[other] + room for other, room in left[column].items()), default=-math.inf)
            high = min((x[other] - room for other, room in right[column].items()), default=math.inf)
            x[column] = max(low, min(wish, high))
    return [x[column_of[item]] for item in range(len(widths))]


def _columns(
    rows: Sequence[Sequence[int]], links: Sequence[Link], is_bend: Sequence[bool], position: dict[int, int]
) -> tuple[list[int], list[list[int]]]:
    """Align items of neighboring layers where no two alignments cross, the most important first."""
    layer_of = {item: number for number, row in enumerate(rows) for item in row}
    below: list[list[int]] = [[] for _ in is_bend]
    for above, other in links:
        below[above].append(other)
    depth = [0] * len(is_bend)
    for row in reversed(rows):
        for item in row:
            depth[item] = max((depth[other] + 1 for other in below[item]), default=0)
    by_layer: list[list[Link]] = [[] for _ in rows]
    for link in links:
        by_layer[layer_of[link[0]]].append(link)
    follows: dict[int, int] = {}
    for group in by_layer:
        group.sort(key=lambda link: _importance(link, is_bend, depth, position))
        follows.update({other: above for above, other in _aligned(group, position)})
    column_of = [-1] * len(is_bend)
    columns: list[list[int]] = []
    for row in rows:
        for item in row:
            if item in follows:
                column_of[item] = column_of[follows[item]]
            else:
                column_of[item] = len(columns)
                columns.append([])
            columns[column_of[item]].append(item)
    return column_of, columns


def _importance(
    link: Link, is_bend: Sequence[bool], depth: Sequence[int], position: dict[int, int]
) -> tuple[int, int, int, int]:
    """Sort key: inside of a long edge first, then between boxes, the deeper what follows the better."""
    above, other = link
    bends = is_bend[above] + is_bend[other]
    return (1, 2, 0)[bends], -depth[other], position[above], position[other]


def _aligned(group: list[Link], position: dict[int, int]) -> list[Link]:
    """Return the links that neither share an end with nor cross one before them."""
    chosen: list[tuple[int, int, Link]] = []
    for link in group:
        ends = position[link[0]], position[link[1]]
        at = bisect_left(chosen, (*ends, link))
        before, after = chosen[at - 1] if at else None, chosen[at] if at < len(chosen) else None
        if before and (before[0] >= ends[0] or before[1] >= ends[1]):
            continue
        if after and (after[0] <= ends[0] or after[1] <= ends[1]):
            continue
        chosen.insert(at, (*ends, link))
    return [link for _, _, link in chosen]


def _neighbors(
    rows: Sequence[Sequence[int]], widths: Sequence[float], column_of: Sequence[int], count: int, gap: float
) -> tuple[list[dict[int, float]], list[dict[int, float]]]:
    """Return, per column, the columns beside it in any layer and the room to keep between the middles."""
    left: list[dict[int, float]] = [{} for _ in range(count)]
    right: list[dict[int, float]] = [{} for _ in range(count)]
    for row in rows:
        for one, other in pairwise(row):
            room = (widths[one] + widths[other]) / 2 + gap
            a, b = column_of[one], column_of[other]
            left[b][a] = right[a][b] = max(left[b].get(a, 0.0), room)
    return left, right


def _left_to_right(left: list[dict[int, float]], right: list[dict[int, float]]) -> list[int]:
    waits = [len(others) for others in left]
    order = [column for column, waiting in enumerate(waits) if not waiting]
    for column in order:
        for other in right[column]:
            waits[other] -= 1
            if not waits[other]:
                order.append(other)
    assert len(order) == len(left), "two alignments cross"
    return order


def _joined(links: Sequence[Link], column_of: Sequence[int], count: int) -> list[dict[int, float]]:
    joined: list[dict[int, float]] = [{} for _ in range(count)]
    for above, other in links:
        a, b = column_of[above], column_of[other]
        if a != b:
            joined[a][b] = joined[a].get(b, 0.0) + 1.0
            joined[b][a] = joined[b].get(a, 0.0) + 1.0
    return joined
