"""The layout of graphs: layers follow the edges, no boxes overlap, all is in bounds, equal input gives equal output."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blackbelt.drawing.layered import GAP_X, Placement, place


@st.composite
def graphs(draw) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    count = draw(st.integers(1, 40))
    size = st.tuples(st.floats(20, 300), st.floats(15, 80))
    sizes = draw(st.lists(size, min_size=count, max_size=count))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] != pair[1])
    pairs = draw(st.lists(pair, max_size=3 * count)) if count > 1 else []
    numbers = draw(st.permutations(range(count)))  # edges follow a hidden order, not that of the boxes
    edges = [(a, b) if numbers[a] < numbers[b] else (b, a) for a, b in pairs]
    return sizes, edges


def check(placed: Placement, sizes: list[tuple[float, float]], edges: list[tuple[int, int]]) -> None:
    assert [(box.width, box.height) for box in placed.boxes] == sizes
    for source, target in edges:
        assert placed.boxes[source].layer < placed.boxes[target].layer
        assert placed.boxes[source].y + placed.boxes[source].height < placed.boxes[target].y
    boxes = sorted(placed.boxes, key=lambda box: (box.layer, box.x))
    for one, other in pairwise(boxes):
        if one.layer == other.layer:
            assert other.x - (one.x + one.width) >= GAP_X - 1e-6
    for box in boxes:
        assert box.x >= -1e-6 and box.y >= -1e-6
        assert box.x + box.width <= placed.width + 1e-6 and box.y + box.height <= placed.height + 1e-6
    for (source, target), path in zip(edges, placed.paths):
        start, end = path.points[0], path.points[-1]
        assert start == (placed.boxes[source].center, placed.boxes[source].y + placed.boxes[source].height)
        assert end == (placed.boxes[target].center, placed.boxes[target].y)
        assert all(a[1] <= b[1] + 1e-6 for a, b in zip(path.points, path.points[1:]))
        assert all(-1e-6 <= x <= placed.width + 1e-6 for x, _ in path.points)


@given(graphs())
def test_any_graph_is_placed_without_overlaps_and_along_its_edges(graph):
    sizes, edges = graph
    placed = place(sizes, edges)
    check(placed, sizes, edges)
    assert place(sizes, edges) == placed
    assert all(not overlap(one, other) for i, one in enumerate(placed.boxes) for other in placed.boxes[:i])


def overlap(one, other) -> bool:
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


@given(graphs())
def test_an_edge_passes_no_box(graph):
    """Where an edge crosses a layer it does so straight, at a place that the layer's boxes leave free."""
    sizes, edges = graph
    placed = place(sizes, edges)
    for path in placed.paths:
        for (x, top), (other_x, bottom) in zip(path.points[1:-1:2], path.points[2:-1:2]):
            assert x == other_x
            for box in placed.boxes:
                if box.y < bottom and top < box.y + box.height:
                    assert not box.x < x < box.x + box.width


def test_a_chain_is_one_straight_line():
    placed = place([(50 + 7 * i, 20) for i in range(30)], [(i, i + 1) for i in range(29)])
    assert len({round(box.center, 6) for box in placed.boxes}) == 1
    assert [box.layer for box in placed.boxes] == list(range(30))


def test_layers_are_longest_paths_and_second_sources_come_down():
    edges = [(0, 1), (1, 2), (0, 2), (3, 2)]
    assert [box.layer for box in place([(10, 10)] * 4, edges).boxes] == [0, 1, 2, 1]


def test_a_ladder_is_drawn_without_crossings():
    """A residual chain: every second box also feeds the one after next."""
    edges = [(i, i + 1) for i in range(20)] + [(i, i + 2) for i in range(0, 20, 2)]
    placed = place([(60, 20)] * 21, edges)
    trunk = [path for (source, target), path in zip(edges, placed.paths) if target == source + 2]
    assert all(len({x for x, _ in path.points[1:-1]}) == 1 for path in trunk)
    assert len({round(box.center, 6) for box in placed.boxes}) == 1


def test_many_edges_into_one_box_share_their_bends():
    edges = [(i, i + 1) for i in range(60)] + [(i, 61) for i in range(61)]
    placed = place([(60, 20)] * 62, edges)
    check(placed, [(60, 20)] * 62, edges)
    bends = {point for path in placed.paths for point in path.points[1:-1]}
    assert len(bends) < 3 * 62


@pytest.mark.parametrize("count", [300, 2000])
def test_large_graphs(count):
    rng = random.Random(count)
    edges = [(i, rng.randrange(max(0, i - 10), i)) for i in range(1, count)]
    edges = [(target, source) for source, target in edges]
    sizes = [(rng.uniform(40, 150), 40.0) for _ in range(count)]
    check(place(sizes, edges), sizes, edges)


def test_nothing_and_one():
    assert place([], []) == Placement((), (), 0.0, 0.0)
    placed = place([(30, 10)], [])
    assert (placed.width, placed.height) == (30, 10)


@pytest.mark.parametrize("edges", [[(0, 0)], [(0, 1), (1, 0)], [(0, 1), (1, 2), (2, 1)]])
def test_a_cycle_is_an_error(edges):
    with pytest.raises(ValueError, match="cycle"):
        place([(10, 10)] * 3, edges)
