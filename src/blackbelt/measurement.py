"""Time and memory, measured side by side: warm-up, synchronization, fresh inputs, median and spread.

Peak bytes on the CPU come from the profiler's allocation events, so temporaries inside operators count; on a GPU from
the allocator's own statistics. Seconds are medians over rounds in which the contestants take turns (A B A B), because
a machine's speed drifts; a ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's C++ log would land in the learner's notebook

import torch
from torch.autograd.profiler import profile  # torch.profiler's imports the compiler: ten seconds on a cold start

from blackbelt.report import Block, Curves, Report, Table, format_bytes, format_seconds

Inputs = Callable[..., "tuple[Any, ...]"]
MIN_SAMPLE_SECONDS = 2e-4


@dataclass(frozen=True)
class Allocation:
    """What one call allocated: bytes above the start at the worst moment, and bytes of all allocations together."""

    peak_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Timing:
    """One contestant: seconds per call of every round, and what one call allocates."""

    name: str
    round_seconds: tuple[float, ...]
    peak_bytes: int
    total_bytes: int

    @property
    def median_seconds(self) -> float:
        """Median over the rounds, in seconds per call."""
        return statistics.median(self.round_seconds)

    @property
    def spread_seconds(self) -> float:
        """Interquartile range over the rounds, in seconds."""
        if len(self.round_seconds) < 2:
            return 0.0
        quartiles = statistics.quantiles(self.round_seconds, n=4)
        return quartiles[2] - quartiles[0]


@dataclass(frozen=True)
class MeasureReport(Report):
    """Timings taken side by side in one run, in the order they were passed."""

    timings: tuple[Timing, ...]
    device: str

    def __getitem__(self, name: str) -> Timing:
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise KeyError(f"nothing named {name!r} was measured; there are {', '.join(t.name for t in self.timings)}")

    def ratio(self, slow: str, fast: str) -> float:
        """Return the median, over the rounds, of the time of ``slow`` divided by the time of ``fast``."""
        pairs = zip(self[slow].round_seconds, self[fast].round_seconds)
        return statistics.median(a / b for a, b in pairs)

    def blocks(self) -> Iterator[Block]:
        first = self.timings[0].name
        rows = [
            (
                timing.name,
                format_seconds(timing.median_seconds),
                f"± {format_seconds(timing.spread_seconds / 2)}",
                f"{self.ratio(timing.name, first):.2f}×",
                format_bytes(timing.peak_bytes),
            )
            for timing in self.timings
        ]
        columns = ("", "median", "spread", f"to {first}", "peak bytes")
        yield Table(columns, rows, title=f"{len(self.timings[0].round_seconds)} rounds in turns, {self.device}")


@dataclass(frozen=True)
class GrowthReport(Report):
    """How time and memory grow with a size: one :class:`MeasureReport` per size."""

    sizes: tuple[int, ...]
    points: tuple[MeasureReport, ...]

    def curve(self, name: str, what: str = "median_seconds") -> tuple[float, ...]:
        """Return ``median_seconds``, ``peak_bytes`` or ``total_bytes`` of one contestant, one value per size."""
        return tuple(float(getattr(point[name], what)) for point in self.points)

    def exponent(self, name: str, what: str = "median_seconds") -> float:
        """Return the least-squares slope on log–log axes: 1 for linear growth, 2 for quadratic.

        Raises ValueError where a value is 0, since it has no logarithm.
        """
        values = self.curve(name, what)
        if min(values) <= 0:
            raise ValueError(
                f"{what} of {name!r} is {min(values):g} at some size: a growth exponent needs values above 0"
            )
        xs, ys = [math.log(size) for size in self.sizes], [math.log(value) for value in values]
        mean_x, mean_y = statistics.fmean(xs), statistics.fmean(ys)
        return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / sum((x - mean_x) ** 2 for x in xs)

    def blocks(self) -> Iterator[Block]:
        names = [timing.name for timing in self.points[0].timings]
        for what, label, title in (
            ("median_seconds", "seconds", "Time"),
            ("peak_bytes", "bytes", "Peak memory of one call"),
        ):
            curves = {name: (self.sizes, self.curve(name, what)) for name in names}
            if all(value > 0 for _, values in curves.values() for value in values):
                yield Curves(curves, "n", label, title)
            else:
                rows = [(size, *(f"{curves[name][1][i]:g}" for name in names)) for i, size in enumerate(self.sizes)]
                yield Table(("n", *names), rows, title=f"{title} ({label})")


def measure(
    *, inputs: Inputs = tuple, rounds: int = 7, warmup: int = 2, **functions: Callable[..., Any]
) -> MeasureReport:
    """Run the named functions in turns and return their seconds per call and the bytes each allocates.

    ``inputs()`` builds the arguments anew for every call, outside the timed part, so a function may change them. Calls
    shorter than 0.2 ms are timed in batches on the same arguments. Every function runs ``warmup + rounds`` times and
    once more under the profiler. Raises ValueError where no function is given.

    >>> report = measure(add=lambda x: x + 1, inputs=lambda: (torch.ones(1000),), rounds=3)
    >>> report["add"].peak_bytes >= 4000
    True
    """
    if not functions:
        raise ValueError("measure() got no function; pass at least one by name, e.g. measure(add=lambda x: x + 1)")
    calls = {name: _calls_per_sample(function, inputs, warmup) for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, function in functions.items():
                seconds[name].append(_sample(function, inputs(), calls[name]))
    finally:
        if collecting:
            gc.enable()
    timings = []
    for name, function in functions.items():
        allocated = allocation(function, *inputs())
        timings.append(Timing(name, tuple(seconds[name]), allocated.peak_bytes, allocated.total_bytes))
    return MeasureReport(tuple(timings), _device_name(inputs()))


def measure_growth(
    sizes: Sequence[int], *, inputs: Inputs, rounds: int = 5, warmup: int = 1, **functions: Callable[..., Any]
) -> GrowthReport:
    """Measure the named functions at every size; ``inputs(n)`` builds the arguments for size ``n``."""
    points = [measure(inputs=lambda n=n: inputs(n), rounds=rounds, warmup=warmup, **functions) for n in sizes]
    return GrowthReport(tuple(sizes), tuple(points))


def allocation(function: Callable[..., Any], *arguments: Any) -> Allocation:
    """Run ``function(*arguments)`` once and return the bytes it allocated, its result included.

    On a GPU (any CUDA tensor among the arguments) the allocator's statistics are read; otherwise the CPU allocator's
    events as the profiler records them. Costs one call, a synchronization on a GPU, and some milliseconds for the
    profiler.
    """
    if any(isinstance(a, torch.Tensor) and a.is_cuda for a in arguments):
        return _cuda_allocation(function, arguments)
    with profile(use_cpu=True, profile_memory=True) as profiler:
        result = function(*arguments)
    del result
    assert profiler.kineto_results is not None
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    return _replay(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def synchronize() -> None:
    """Wait for the GPU where there is one, so that a clock read after this means something."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _replay(sizes: Iterable[int]) -> Allocation:
    current = peak = total = 0
    for size in sizes:
        current += size
        peak = max(peak, current)
        total += max(size, 0)
    return Allocation(peak, total)


def _cuda_allocation(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Allocation:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()
    result = function(*arguments)
    torch.cuda.synchronize()
    after = torch.cuda.memory_stats()
    del result
    return Allocation(
        after["allocated_bytes.all.peak"] - before["allocated_bytes.all.current"],
        after["allocated_bytes.all.allocated"] - before["allocated_bytes.all.allocated"],
    )


def _calls_per_sample(function: Callable[..., Any], inputs: Inputs, warmup: int) -> int:
    took = min(_sample(function, inputs(), 1) for _ in range(max(warmup, 1)))
    return max(1, min(1000, math.ceil(MIN_SAMPLE_SECONDS / max(took, 1e-9))))


def _sample(function: Callable[..., Any], arguments: tuple[Any, ...], calls: int) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function(*arguments)
    synchronize()
    return (time.perf_counter() - start) / calls


def _device_name(arguments: tuple[Any, ...]) -> str:
    if any(isinstance(a, torch.Tensor) and a.is_cuda for a in arguments):
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} threads"
