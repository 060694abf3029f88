"""`plan_checkpoints`: measure a chain, and find what to keep and what to run again within a byte budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from blackbelt.reference.checkpointing.profile import measure_units, state_bytes
from blackbelt.reference.checkpointing.schedule import Items, Keep, Unit, choose, frontier
from blackbelt.reference.checkpointing.units import as_stages, cut, name_of, nothing_changed
from blackbelt.report import Block, Curves, Report, Table, Verdict, format_bytes, format_seconds


@dataclass(frozen=True)
class PlannedUnit:
    """A part of the chain that is kept or rerun as one: its stages, and how often they run in a step."""

    stages: tuple[int, ...]
    name: str
    cost: Unit
    num_runs: int


@dataclass(frozen=True)
class PlanReport(Report):
    """A schedule for a chain: what it keeps and reruns, and the bytes and seconds it is predicted to take.

    ``items`` is the schedule over units; ``frontier`` are (bytes, seconds run again) of all budgets worth having.
    """

    units: tuple[PlannedUnit, ...]
    memory_budget: int
    predicted_peak_bytes: int
    recomputed_seconds: float
    items: Items
    frontier: tuple[tuple[int, float], ...]

    @property
    def plain_seconds(self) -> float:
        """Seconds of forward and backward without any rerun."""
        return sum(unit.cost.forward_seconds + unit.cost.backward_seconds for unit in self.units)

    @property
    def predicted_seconds(self) -> float:
        """Seconds of forward and backward with the reruns."""
        return self.plain_seconds + self.recomputed_seconds

    @property
    def recomputation_share(self) -> float:
        """Seconds run again, as a share of one forward."""
        return self.recomputed_seconds / sum(unit.cost.forward_seconds for unit in self.units)

    @property
    def plain_peak_bytes(self) -> int:
        """Bytes without any checkpoint, as predicted: the last point of the frontier keeps everything."""
        return self.frontier[-1][0]

    def blocks(self) -> Iterator[Block]:
        least = format_bytes(self.frontier[0][0])
        yield Verdict(
            f"{format_bytes(self.predicted_peak_bytes)} of {format_bytes(self.memory_budget)} at the peak, for "
            f"{self.recomputation_share:.0%} of a forward run again. Without checkpoints: "
            f"{format_bytes(self.plain_peak_bytes)}. At least: {least}.",
            ok=True,
        )
        rows = [_row(unit, depth) for unit, depth in zip(self.units, _depths(self.items))]
        columns = ("stages", "", "saved", "output", "forward", "backward", "")
        yield Table(columns, rows, title="Bytes saved if kept, and what the schedule does")
        if len(self.frontier) > 1 and all(seconds > 0 for _, seconds in self.frontier[:-1]):
            sizes, seconds = zip(*self.frontier)
            yield Curves({"least": (sizes, seconds)}, "bytes", "seconds run again", "Every budget", log=False)


def _row(unit: PlannedUnit, depth: int) -> tuple[object, ...]:
    first, last = unit.stages[0], unit.stages[-1]
    does = "kept" if depth == 0 else "rerun" if depth == 1 else f"rerun, {depth} deep"
    saved = unit.cost.saved_bytes + (unit.cost.output_bytes if unit.cost.saves_output else 0)
    return (
        f"{first}" if first == last else f"{first}–{last}",
        unit.name,
        format_bytes(saved),
        format_bytes(unit.cost.output_bytes),
        format_seconds(unit.cost.forward_seconds),
        format_seconds(unit.cost.backward_seconds),
        does,
    )


def _depths(items: Items, depth: int = 0) -> list[int]:
    """In how many checkpoints each unit lies."""
    depths: list[int] = []
    for item in items:
        depths += [depth] if isinstance(item, Keep) else _depths(item.items, depth + 1)
    return depths


def count_runs(items: Items, num_units: int) -> list[int]:
    """Return how often each unit runs forward in one step, the runs that a rerun's end cuts short included."""
    runs = [0] * num_units

    def walk(items: Items, *, again: bool) -> None:
        for item in items:
            if isinstance(item, Keep):
                runs[item.unit] += 1
            else:
                if not (again and item is items[-1]):  # a rerun ends at the input of a last checkpoint
                    for index in range(item.first, item.last + 1):
                        runs[index] += 1
                walk(item.items, again=True)

    walk(items, again=False)
    return runs


def check_budget(memory_budget: Any) -> int:
    """Return the budget; TypeError or ValueError where it is none."""
    if isinstance(memory_budget, bool) or not isinstance(memory_budget, int):
        raise TypeError(f"memory_budget must be a whole number of bytes, e.g. 512 * 2**20, not {memory_budget!r}")
    if memory_budget <= 0:
        raise ValueError(f"memory_budget must be above 0 bytes, not {memory_budget}")
    return memory_budget


def plan_checkpoints(stages: Any, memory_budget: int, example_input: torch.Tensor, *, rounds: int = 3) -> PlanReport:
    """Return the schedule of a chain that runs least again within ``memory_budget`` bytes.

    ``stages`` is an ``nn.Sequential`` or a list of modules and functions, each of one tensor and returning one; stages
    that cannot begin a rerun are joined with the one before them. ``example_input`` stands for the chain's input; its
    shape, dtype, device and ``requires_grad`` count. What the budget counts, and over which class of schedules the
    result is optimal, is said in :mod:`blackbelt.reference.checkpointing.schedule`.

    Measures: runs every stage forward and backward ``rounds`` + 5 times, on random numbers and buffers that are put
    back; no gradient is written. Bytes are those of the allocator; seconds are as steady as the machine.

    Raises TypeError and ValueError where ``stages`` is empty, one is not callable, fails on what it is given or does
    not return one tensor, where ``memory_budget`` is not an int above 0, and where it is too small: the least budget
    that would do is in the message.
    """
    stages, memory_budget = as_stages(stages), check_budget(memory_budget)
    if not isinstance(example_input, torch.Tensor):
        raise TypeError(f"example_input must be a tensor, the input of stages[0], not {example_input!r}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be an int of at least 1, not {rounds!r}")
    with nothing_changed(stages, example_input), torch.enable_grad():
        cuts = cut(stages, example_input)
        costs = measure_units(stages, cuts, example_input, rounds)
    points = frontier(costs, state_bytes(example_input))
    point = choose(points, memory_budget)
    if point is None:
        raise ValueError(
            f"memory_budget of {memory_budget} bytes is too small for this chain: the least that any schedule of "
            f"checkpoints needs is {points[0].num_bytes} bytes ({format_bytes(points[0].num_bytes)}). Raise it to "
            f"that, cut large stages into smaller ones, or use a smaller batch."
        )
    units = tuple(
        PlannedUnit(indices, _name(stages, indices), cost, runs)
        for indices, cost, runs in zip(cuts, costs, count_runs(point.items, len(costs)))
    )
    sizes = tuple(p[:2] for p in points)
    return PlanReport(units, memory_budget, point.num_bytes, point.seconds, point.items, sizes)


def _name(stages: Sequence[Any], indices: tuple[int, ...]) -> str:
    names = [name_of(stages[index]) for index in indices]
    return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"
