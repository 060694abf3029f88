"""What a training step leaves alive, and which reference keeps it: `trace_retained`.

A graph lives as long as one tensor that was computed through it, so a single name can hold the activations of every
step there has been (`total += loss`). Nothing is ever refused for it: steps get slower and memory runs out.
"""

from __future__ import annotations

import inspect
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from blackbelt.autograd._retain_findings import RetainedFinding
from blackbelt.autograd._retain_lines import Lines
from blackbelt.autograd._retain_snapshot import MAX_DEPTH
from blackbelt.autograd._retain_tracer import Tracer
from blackbelt.report import Block, Prose, Report, Table, Verdict

MIN_STEPS = 4


@dataclass(frozen=True)
class RetainedReport(Report):
    """What was alive after each step, above what was there before the first, and what held it.

    ``nodes_per_step`` counts autograd nodes, ``bytes_per_step`` bytes of memory (each storage once: what tensors hold
    and what nodes saved for backward), ``tensors_per_step`` tensors that Python knows. ``findings`` are references
    that keep a graph of every step; ``notes`` are worth knowing and no fault of autograd. Where ``is_partial``, graphs
    were deeper than could be walked, and the counts are lower bounds.
    """

    findings: tuple[RetainedFinding, ...]
    notes: tuple[RetainedFinding, ...]
    nodes_per_step: tuple[int, ...]
    bytes_per_step: tuple[int, ...]
    tensors_per_step: tuple[int, ...]
    is_partial: bool = False

    @property
    def ok(self) -> bool:
        """Whether no graph outlives its step for good."""
        return not self.findings

    @property
    def nodes_growth(self) -> float:
        """Nodes that each step adds to what stays alive (median over the steps after the first)."""
        return _growth(self.nodes_per_step)

    @property
    def bytes_growth(self) -> float:
        """Bytes that each step adds to what stays alive (median over the steps after the first)."""
        return _growth(self.bytes_per_step)

    def blocks(self) -> Iterator[Block]:
        for finding in self.findings:
            yield from finding.blocks()
        if not self.findings and self.is_partial:
            yield Verdict("Nothing was found, but graphs here are too deep to be looked at whole.", ok=None)
        elif not self.findings:
            yield Verdict("No graph outlives its step.", ok=True)
        unit, scale = _unit(max(map(abs, self.bytes_per_step)))
        sizes = [f"{size / scale:.4g}" for size in self.bytes_per_step]
        columns = ("after step", *(str(number) for number in range(1, len(sizes) + 1)))
        rows = [("nodes", *self.nodes_per_step), ("tensors", *self.tensors_per_step), (unit, *sizes)]
        yield Table(columns, rows, title="Left alive by the steps")
        for note in self.notes:
            yield from note.blocks()
        if self.is_partial:
            yield Prose(f"Graphs were walked to a depth of {MAX_DEPTH:,} nodes: the numbers are lower bounds.")


def _growth(values: tuple[int, ...]) -> float:
    return statistics.median(after - before for before, after in itertools.pairwise(values[1:]))


def _unit(size: int) -> tuple[str, int]:
    return next(
        ((unit, 1 << power) for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)) if size >> power), ("bytes", 1)
    )


def trace_retained(step: Callable[..., Any], steps: int = 6) -> RetainedReport:
    """Run a training step several times and name what keeps the graph of each of them alive.

    ``step`` is called ``steps`` times, with no argument, or with the number of the step (from 0) where it takes one.
    Tensors, memory and graph nodes that are left after each step are counted; where something of the early and of the
    late steps is still there at the end, the report names the line that made it, the reference that holds it, the
    reason, and the fix as code. A warm-up that ends and a window that moves are no findings, as long as ``steps`` is
    at least twice as long as they are. Growth without a graph (detached tensors in a list) is in ``notes``, as are
    containers that are bounded, graphs that only the cyclic collector frees, and a last graph that backward left.

    The steps run for real: they train. Beyond that nothing changes: gradients, values, RNG and version counters are
    the same to the bit, no saved-tensor hook is run, and an error in a step is raised as it is.
    Costs, beside the steps, some microseconds per operator, a walk over all nodes alive after each step (about a
    microsecond each), and half a second for the collector and the search for holders, more where the process holds
    millions of Python objects. Never synchronizes a GPU.

    Not seen: lines inside a compiled function, TorchScript or a C++ extension (the next line outside is named); what
    other threads run; what grows less often than every other step; memory that no tensor owns; in PyTorch 2.9,
    cycles that C++ alone holds; what lies deeper in a graph than 15,000 nodes in a row (looking at more makes PyTorch
    2.15 overflow its stack when the graph is freed): where that is so, the report says it.

    Raises TypeError where ``step`` is not callable or takes more than one argument, ValueError for fewer than 4 steps.

    >>> import torch
    >>> weight, total = torch.ones(3, requires_grad=True), 0.0
    >>> def step():
    ...     global total
    ...     loss = weight.exp().sum()
    ...     loss.backward()
    ...     total += loss
    >>> finding = trace_retained(step).findings[0]
    >>> finding.kind, finding.held_by, finding.made_at.code, finding.fix
    ('chain', 'global `total`', 'total += loss', 'total += loss.detach()')
    """
    takes_number = _takes_number(step)
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps is {steps!r} of type {type(steps).__name__}; it takes a whole number, e.g. steps=6")
    if steps < MIN_STEPS:
        raise ValueError(
            f"steps is {steps}; growth shows in the steps between the first and the last, so it takes at least "
            f"{MIN_STEPS}. Try steps=6"
        )
    lines = Lines()
    tracer = Tracer(lines, getattr(inspect.unwrap(step), "__globals__", {}), steps)
    try:
        for number in range(steps):
            tracer.begin()
            with lines:
                step(number) if takes_number else step()
            tracer.end(number)
    finally:
        tracer.close()
    return RetainedReport(*tracer.result())


def _takes_number(step: Any) -> bool:
    if not callable(step):
        raise TypeError(
            f"step is {step!r:.60} of type {type(step).__name__}; it takes a function that runs one training step. "
            "Pass the function itself, without calling it: trace_retained(step)"
        )
    if inspect.isgeneratorfunction(step) or inspect.iscoroutinefunction(step):
        raise TypeError(
            f"step is {step!r:.60}, and calling it runs nothing yet; it takes a function that runs one training step. "
            "Wrap it: trace_retained(lambda: next(generator))"
        )
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):  # some builtins tell nothing
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [one for one in parameters if one.default is one.empty and one.kind in positional]
    if len(required) > 1:
        names = ", ".join(one.name for one in required)
        raise TypeError(
            f"step takes {len(required)} arguments ({names}); it is called with none, or with the number of the step. "
            "Wrap it: trace_retained(lambda: step(model, batch))"
        )
    return bool(required)
