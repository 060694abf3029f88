"""Which parts of a chain to checkpoint so that a byte budget holds and least is computed again: dynamic programming.

**Class of schedules.** A chain of units runs as a sequence of items: a unit that is *kept* (its saved tensors stay) or
a *checkpoint* over a contiguous range of units, which is itself a sequence of items once it is rerun, and so on:
checkpoints in checkpoints, to any depth. Backward goes through the items from the last to the first. Over this class
the result is optimal for the costs given: no other schedule in it needs as few bytes and reruns for fewer seconds.
(These are the persistent schedules of Beaumont, Eyraud-Dubois, Herrmann, Joly and Shilova, "Optimal checkpointing for
heterogeneous chains: how to train deep neural networks with limited memory", 2019, for what PyTorch keeps and frees:
a rerun ends with the last tensor saved, and an activation that two neighbors save is one.)

**Bytes** are counted above the start of forward, without the chain's input and without the gradient of its output,
which are the caller's: the output, saved tensors, inputs of checkpoints, activations and their gradients on the way,
gradients of parameters (from ``.grad is None``), and temporaries inside a unit, at the worst moment.

The recursion works on frontiers: all pairs (bytes, seconds) that no other schedule beats in both. So one run answers
every budget. Work grows as n³ times the length of the frontiers, which are thinned where they get long.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import NamedTuple

MAX_POINTS = 1000  # of one frontier; above, neighbors are dropped, as rotor rounds bytes to 500 slots


@dataclass(frozen=True)
class Unit:
    """What one unit of a chain costs. Peaks are bytes above those live when it starts."""

    output_bytes: int  # of the storage of its output
    saved_bytes: int  # of what it saves that is neither its input nor its output nor a parameter
    saves_input: bool
    saves_output: bool
    forward_peak: int  # forward that saves, output included
    light_peak: int  # forward that saves nothing, output included
    rerun_peak: int  # forward up to the last tensor saved
    backward_peak: int  # backward, the gradient of its output included, when what it saved is live
    gradient_bytes: int  # the gradient of its output; of the last unit, 0
    parameter_bytes: int  # gradients of parameters that backward leaves behind
    draws: bool  # random numbers, so that a checkpoint over it holds the generator's state
    forward_seconds: float
    rerun_seconds: float
    backward_seconds: float


class Keep(NamedTuple):
    """An item: run the unit at position ``unit`` and keep what it saves."""

    unit: int


class Rerun(NamedTuple):
    """An item: a checkpoint over units ``first`` to ``last``; ``items`` is the schedule of its rerun."""

    first: int
    last: int
    items: tuple[Keep | Rerun, ...]


Items = tuple["Keep | Rerun", ...]


class Point(NamedTuple):
    """A schedule of a range of units: bytes it needs, seconds it computes again, and how it is put together.

    It begins with unit ``first``, kept, or with a checkpoint over ``first`` to ``last`` whose rerun goes as ``inside``;
    ``behind`` is what follows.
    """

    num_bytes: int
    seconds: float
    first: int
    last: int
    inside: Point | None
    behind: Point | None

    @property
    def items(self) -> Items:
        """The schedule itself."""
        own = Keep(self.first) if self.inside is None else Rerun(self.first, self.last, self.inside.items)
        return (own, *(self.behind.items if self.behind is not None else ()))


Frontier = list[Point]


def frontier(units: Sequence[Unit], state_bytes: int = 0) -> Frontier:
    """Return the schedules of a chain that no other beats in bytes and seconds, from fewest bytes to fewest seconds.

    ``seconds`` of a point are those of all reruns in one step; ``state_bytes`` are those of the random number
    generator's state, of which a checkpoint makes copies. Raises ValueError without units.
    """
    if not units:
        raise ValueError("units is empty: a schedule needs at least one")
    chain = _Chain(units, state_bytes)
    for first in range(len(units) - 1, -1, -1):  # short ranges first, or a long chain recurses too deep
        for last in range(first, len(units)):
            for held in (False, True):
                chain.rerun(first, last, held)
        for held in (False, True):
            chain.forward(first, held)
    return chain.forward(0, True)


class _Chain:
    """The recursion. ``held`` says whether a range's input is accounted for already, by whoever needs it as well."""

    def __init__(self, units: Sequence[Unit], state_bytes: int) -> None:
        self.units = units
        self.state_bytes = state_bytes
        self.end = len(units) - 1
        self.inputs = [0, *(unit.output_bytes for unit in units[:-1])]  # the input of each unit; the chain's is free
        totals = list(accumulate((unit.parameter_bytes for unit in reversed(units)), initial=0))
        self.left_behind = totals[-2::-1]  # gradients of parameters that are there when backward comes to a unit
        self.forward = cache(self._forward)
        self.rerun = cache(self._rerun)

    def _forward(self, first: int, held: bool) -> Frontier:
        """Schedules of the units from ``first`` to the end in the first forward, which runs everything once."""
        unit, entering, output = self.units[first], self._entering(first, held), self.units[-1].output_bytes
        kept = self._kept(first, held)
        if first == self.end and unit.saves_output:
            kept -= output  # it is the caller's, who holds it until the end
        least = max(entering + unit.forward_peak, output + kept + unit.backward_peak + self.left_behind[first])
        if first == self.end:
            points = [Point(least, 0.0, first, first, None, None)]
        else:
            points = _behind(first, least, kept, 0.0, self.forward(first + 1, unit.saves_output))
        for last in range(first, self.end + 1):
            inside = [p._replace(num_bytes=output + p.num_bytes) for p in self.rerun(first, last, True)]
            least, held_bytes = entering + self._light_peak(first, last), entering + self._state(first, last)
            if last < self.end:
                points += _beside(inside, self.forward(last + 1, False), least, held_bytes, 0.0)
            else:
                points += [Point(max(least, held_bytes + p.num_bytes), p.seconds, first, last, p, None) for p in inside]
        return _best(points)

    def _rerun(self, first: int, last: int, held: bool) -> Frontier:
        """Schedules of units ``first`` to ``last`` in a rerun that backward of ``last`` waits for, its end included.

        The last unit is kept: as the rerun ends at the input of a last checkpoint, one there would change nothing.
        """
        unit, entering, kept = self.units[first], self._entering(first, held), self._kept(first, held)
        waiting = self.units[last].gradient_bytes + self.left_behind[last] + self.state_bytes  # the caller's
        backward = kept + unit.backward_peak + self.left_behind[first]
        if first == last:
            num_bytes = max(entering + unit.rerun_peak + waiting, backward)
            return [Point(num_bytes, unit.rerun_seconds, first, first, None, None)]
        least = max(entering + unit.forward_peak + waiting, backward)
        behind = self.rerun(first + 1, last, unit.saves_output)
        points = _behind(first, least, kept, unit.forward_seconds, behind)
        seconds = 0.0
        for middle in range(first, last):
            seconds += self.units[middle].forward_seconds
            least = entering + self._light_peak(first, middle) + waiting
            inside, behind = self.rerun(first, middle, True), self.rerun(middle + 1, last, False)
            points += _beside(inside, behind, least, entering + self._state(first, middle), seconds)
        return _best(points)

    def _entering(self, first: int, held: bool) -> int:
        return 0 if held else self.inputs[first]

    def _kept(self, index: int, held: bool) -> int:
        """Bytes that stay when a unit is kept, without its input where that is held anyway."""
        unit = self.units[index]
        output = unit.output_bytes if unit.saves_output else 0
        return unit.saved_bytes + output + (self._entering(index, held) if unit.saves_input else 0)

    def _state(self, first: int, last: int) -> int:
        return self.state_bytes if any(unit.draws for unit in self.units[first : last + 1]) else 0

    def _light_peak(self, first: int, last: int) -> int:
        """Bytes above the input of ``first`` when units run and nothing is saved."""
        inputs = [0, *self.inputs[first + 1 : last + 1]]
        return self.state_bytes + max(
            live + unit.light_peak for live, unit in zip(inputs, self.units[first : last + 1])
        )


def _behind(first: int, least: int, kept: int, seconds: float, behind: Frontier) -> list[Point]:
    """A kept unit and whatever comes behind it."""
    return [Point(max(least, kept + p.num_bytes), seconds + p.seconds, first, first, None, p) for p in behind]


def _beside(inside: Frontier, behind: Frontier, least: int, held_bytes: int, seconds: float) -> list[Point]:
    """A checkpoint and what comes behind it: they need their bytes one after the other, so the larger counts."""
    points = []
    num_inside = num_behind = 0
    first, last = inside[0].first, behind[0].first - 1
    for limit in sorted({p.num_bytes for p in (*inside, *behind)}):
        while num_inside < len(inside) and inside[num_inside].num_bytes <= limit:
            num_inside += 1
        while num_behind < len(behind) and behind[num_behind].num_bytes <= limit:
            num_behind += 1
        if num_inside and num_behind:
            within, after = inside[num_inside - 1], behind[num_behind - 1]
            total = seconds + within.seconds + after.seconds
            points.append(Point(max(least, held_bytes + limit), total, first, last, within, after))
    return points


def _best(points: Iterable[Point]) -> Frontier:
    """Only the points that no other beats."""
    best: Frontier = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not best or point.seconds < best[-1].seconds:
            best.append(point)
    if len(best) > MAX_POINTS:
        step = (len(best) - 1) / (MAX_POINTS - 1)
        best = [best[round(i * step)] for i in range(MAX_POINTS)]
    return best


def choose(points: Frontier, memory_budget: int) -> Point | None:
    """Return the point of a frontier with least to compute again within a budget, or None where there is none."""
    place = bisect.bisect_right(points, memory_budget, key=lambda point: point.num_bytes)
    return points[place - 1] if place else None
