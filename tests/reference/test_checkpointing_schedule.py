"""The dynamic program against every schedule there is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from blackbelt.reference.checkpointing.schedule import Keep, Rerun, Unit, choose, frontier
from tests.reference.checkpointing_oracle import Walk, every_schedule


def make_unit(draw_bytes, flag, seconds, *, is_last: bool) -> Unit:
    """A unit as measured ones are: peaks hold at least what is left of them."""
    output, saved, parameters = draw_bytes(), draw_bytes(), draw_bytes()
    saves_output = flag()
    return Unit(
        output_bytes=output,
        saved_bytes=saved,
        saves_input=flag(),
        saves_output=saves_output,
        forward_peak=output + saved + draw_bytes(),
        light_peak=output + draw_bytes(),
        rerun_peak=saved + saves_output * output + draw_bytes(),
        backward_peak=output + parameters + draw_bytes(),
        gradient_bytes=0 if is_last else output,
        parameter_bytes=parameters,
        draws=flag(),
        forward_seconds=seconds(),
        rerun_seconds=seconds(),
        backward_seconds=1.0,
    )


def random_units(seed: int, length: int) -> list[Unit]:
    rng = random.Random(seed)
    # Whole seconds below 2**53: sums are exact, whatever their order.
    return [
        make_unit(
            lambda: rng.randrange(100), lambda: rng.random() < 0.5, lambda: rng.randrange(50), is_last=i == length - 1
        )
        for i in range(length)
    ]


def best_of_all(units: list[Unit], state_bytes: int) -> list[tuple[int, float]]:
    walks = [Walk(units, items, state_bytes) for items in every_schedule(0, len(units) - 1)]
    found = sorted((walk.peak, walk.seconds) for walk in walks)
    best: list[tuple[int, float]] = []
    for peak, seconds in found:
        if not best or seconds < best[-1][1]:
            best.append((peak, seconds))
    return best


@st.composite
def chains(draw, max_length: int = 4) -> list[Unit]:
    length = draw(st.integers(1, max_length))
    draws = (
        lambda: draw(st.integers(0, 20)),
        lambda: draw(st.booleans()),
        lambda: draw(st.integers(0, 9)),
    )
    return [make_unit(*draws, is_last=i == length - 1) for i in range(length)]


@given(chains(), st.integers(0, 5))
@hypothesis_settings(max_examples=60)
def test_frontier_is_that_of_all_schedules(units, state_bytes):
    assert [point[:2] for point in frontier(units, state_bytes)] == best_of_all(units, state_bytes)


@pytest.mark.parametrize(("seed", "length"), [(0, 5), (1, 5), (2, 5), (3, 6)])
def test_frontier_is_that_of_all_schedules_of_longer_chains(seed, length):
    units = random_units(seed, length)
    assert [point[:2] for point in frontier(units, 7)] == best_of_all(units, 7)


@given(chains(max_length=8), st.integers(0, 5))
@hypothesis_settings(max_examples=40)
def test_schedules_need_what_they_say(units, state_bytes):
    for point in frontier(units, state_bytes):
        walk = Walk(units, point.items, state_bytes)
        assert (walk.peak, walk.seconds) == point[:2]


def test_schedules_cover_the_chain_in_order():
    def indices(items):
        return [i for item in items for i in ([item.unit] if isinstance(item, Keep) else indices(item.items))]

    def ranges_hold(items):
        for item in items:
            if isinstance(item, Rerun):
                assert indices(item.items) == list(range(item.first, item.last + 1))
                ranges_hold(item.items)

    for point in frontier(random_units(7, 9)):
        assert indices(point.items) == list(range(9))
        ranges_hold(point.items)


def test_deep_checkpoints_are_found():
    """A long chain of equal units in least memory: checkpoints in checkpoints, as Griewank's binomial schedules."""
    unit = Unit(100, 0, True, False, 100, 100, 0, 200, 100, 0, False, 1.0, 0.0, 1.0)
    units = [unit] * 15 + [Unit(100, 0, True, False, 100, 100, 0, 100, 0, 0, False, 1.0, 0.0, 1.0)]

    def depth(items):
        return max((1 + depth(item.items) for item in items if isinstance(item, Rerun)), default=0)

    assert depth(frontier(units)[0].items) >= 2


def test_choose():
    points = frontier(random_units(3, 5))
    assert choose(points, points[0].num_bytes - 1) is None
    assert choose(points, points[0].num_bytes) == points[0]
    assert choose(points, points[1].num_bytes) == points[1]
    assert choose(points, 10**9) == points[-1]
    assert points[-1].seconds == 0


def test_no_units():
    with pytest.raises(ValueError, match="units is empty"):
        frontier([])
