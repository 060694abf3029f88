"""A layered layout for directed acyclic graphs: layers, crossings, coordinates. Knows sizes and edges, nothing else.

Four steps, after Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures"
(1981): the longest path to a box is its layer; edges across several layers get a bend in each; boxes are ordered within
their layers so that few edges cross (barycenters, both ways in turns); ``columns`` then finds the coordinates. Equal
input gives equal output. No recursion.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from blackbelt.drawing.columns import centers

GAP_X, GAP_Y = 18.0, 26.0
BEND = 10.0  # the width kept free for an edge on its way through a layer
ORDER_SWEEPS = 12
MANY = 6


@dataclass(frozen=True)
class Box:
    """A placed box: its top left corner and its size, in the unit of the sizes given; ``layer`` counts from the top."""

    x: float
    y: float
    width: float
    height: float
    layer: int

    @property
    def center(self) -> float:
        """The middle, from left to right."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Path:
    """The points an edge goes through, from the bottom of its source to the top of its target."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Placement:
    """Where everything goes: boxes and paths in the order of the sizes and edges, and the size of it all."""

    boxes: tuple[Box, ...]
    paths: tuple[Path, ...]
    width: float
    height: float


def place(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Placement:
    """Lay out boxes of the given (width, height), sources above targets.

    Time is about linear in the number of boxes and bends; an edge has a bend in every layer that it skips. Where more
    than ``MANY`` edges end at one box, they share their bends. Raises ValueError on a cycle.
    """
    if not sizes:
        return Placement((), (), 0.0, 0.0)
    layer = _layers(len(sizes), edges)
    grid = _Grid(sizes, edges, layer)
    _order(grid)
    middles = centers(grid.rows, grid.widths, grid.links, [i >= len(sizes) for i in range(len(grid.layer))], GAP_X)
    heights = [0.0] * (max(layer) + 1)
    for index, (_, height) in enumerate(sizes):
        heights[layer[index]] = max(heights[layer[index]], height)
    tops = [0.0]
    for height in heights:
        tops.append(tops[-1] + height + GAP_Y)
    left = min(center - width / 2 for center, width in zip(middles, grid.widths))
    right = max(center + width / 2 for center, width in zip(middles, grid.widths))
    boxes = tuple(
        Box(middles[i] - width / 2 - left, tops[layer[i]] + (heights[layer[i]] - height) / 2, width, height, layer[i])
        for i, (width, height) in enumerate(sizes)
    )
    middle = [
        (middles[i] - left, tops[grid.layer[i]], tops[grid.layer[i]] + heights[grid.layer[i]])
        for i in range(len(middles))
    ]
    paths = tuple(_path(boxes, middle, chain) for chain in grid.chains)
    return Placement(boxes, paths, right - left, tops[-1] - GAP_Y)


def _path(boxes: tuple[Box, ...], middle: list[tuple[float, float, float]], chain: list[int]) -> Path:
    source, target = boxes[chain[0]], boxes[chain[-1]]
    points = [(source.center, source.y + source.height)]
    for bend in chain[1:-1]:
        x, top, bottom = middle[bend]
        points += [(x, top), (x, bottom)]
    points.append((target.center, target.y))
    return Path(tuple(points))


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return the longest path to every box, then pull boxes without a source down to what they point at."""
    targets: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for source, target in edges:
        targets[source].append(target)
        waits[target] += 1
    has_source = [waiting > 0 for waiting in waits]
    ready = [index for index in range(count) if not waits[index]]
    layer = [0] * count
    for index in ready:
        for target in targets[index]:
            layer[target] = max(layer[target], layer[index] + 1)
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    if len(ready) < count:
        raise ValueError("the graph has a cycle: a layered drawing needs one direction that every edge follows")
    for index in range(count):
        if targets[index] and not has_source[index]:
            layer[index] = min(layer[target] for target in targets[index]) - 1
    top = min(layer)
    return [number - top for number in layer]


class _Grid:
    """Boxes and bends by layer. Bends are numbered after the boxes."""

    def __init__(
        self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], layer: list[int]
    ) -> None:
        self.layer = list(layer)
        self.widths = [width for width, _ in sizes]
        self.num_boxes = len(sizes)
        bends: dict[tuple[int, int, int], int] = {}
        self.chains: list[list[int]] = []
        links: dict[tuple[int, int], None] = {}
        into = Counter(target for _, target in edges)
        for index, (source, target) in enumerate(edges):
            chain = [source]
            trunk = -1 if into[target] > MANY else index  # edges on one trunk share their bends
            for number in range(layer[source] + 1, layer[target]):
                if (target, trunk, number) not in bends:
                    bends[target, trunk, number] = len(self.layer)
                    self.layer.append(number)
                    self.widths.append(BEND)
                chain.append(bends[target, trunk, number])
            chain.append(target)
            self.chains.append(chain)
            for above, below in pairwise(chain):
                links[above, below] = None
        self.links = list(links)
        self.above: list[list[int]] = [[] for _ in self.layer]
        self.below: list[list[int]] = [[] for _ in self.layer]
        for above, below in links:
            self.below[above].append(below)
            self.above[below].append(above)
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer) + 1)]
        for item in self._first_order():
            self.rows[self.layer[item]].append(item)

    def _first_order(self) -> list[int]:
        """Return all boxes and bends depth first, so that what belongs together starts side by side."""
        seen = [False] * len(self.layer)
        order = []
        for start in range(self.num_boxes):
            stack = [] if self.above[start] else [start]
            while stack:
                item = stack.pop()
                if seen[item]:
                    continue
                seen[item] = True
                order.append(item)
                stack.extend(reversed(self.below[item]))
        return order


def _order(grid: _Grid) -> None:
    """Sort every layer by the mean place of its neighbors, down and up in turns; keep the order that crosses least."""
    best, fewest = [list(row) for row in grid.rows], crossings(grid)
    place_of = [0.0] * len(grid.layer)
    for row in grid.rows:
        _note(row, place_of)
    for sweep in range(ORDER_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        neighbors = grid.above if down else grid.below
        for row in grid.rows[1:] if down else reversed(grid.rows[:-1]):
            row.sort(key=lambda item: _mean(item, neighbors, place_of))
            _note(row, place_of)
        count = crossings(grid)
        if count < fewest:
            best, fewest = [list(row) for row in grid.rows], count
    grid.rows = best


def _note(row: list[int], place_of: list[float]) -> None:
    for position, item in enumerate(row):
        place_of[item] = position - (len(row) - 1) / 2


def _mean(item: int, neighbors: list[list[int]], place_of: list[float]) -> float:
    joined = neighbors[item]
    return sum(place_of[other] for other in joined) / len(joined) if joined else place_of[item]


def crossings(grid: _Grid) -> int:
    """Return how many pairs of edges cross between neighboring layers."""
    count = 0
    position = {item: index for row in grid.rows for index, item in enumerate(row)}
    for row in grid.rows[:-1]:
        passed: list[int] = []
        for item in row:
            ends = sorted(position[below] for below in grid.below[item])
            count += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return count
