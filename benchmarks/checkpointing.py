"""Gradient checkpointing beside PyTorch's: time and memory for the same segments, the ladder, policies, and plans.

Run ``python benchmarks/checkpointing.py``; on a machine with a GPU it runs there, unchanged. Contestants take turns in
one process. The limits are a step without checkpoints (time) and the inputs of the segments (memory). Targets: no more
memory and at most 1.02 × the time of ``torch.utils.checkpoint``; under the budget of the best uniform
``checkpoint_sequential`` at least 15 % less recomputation; peak bytes within 5 % and seconds within 15 % of predicted.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint_sequential, create_selective_checkpoint_contexts
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from blackbelt.measurement import MeasureReport, allocation, measure
from blackbelt.reference.checkpointing import (
    PlanReport,
    checkpoint,
    keep_matmuls,
    plan_checkpoints,
    rerun_as_it_was,
    rerun_in_function,
    rerun_on_hooks,
    rerun_until_enough,
    run_plan,
)
from blackbelt.report import Drawing, Table, format_bytes, format_seconds

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Call = Callable[..., Any]


class Attention(nn.Module):
    """The first half of a block of a transformer: a stage of its own, so that a plan may choose for it alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, width) to the same."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(-2))


class Feedforward(nn.Module):
    """The second half."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers = (nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.layers = nn.Sequential(nn.LayerNorm(width), *layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, width) to the same."""
        return x + self.layers(x)


def block(width: int, hidden: int, dropout: float = 0.0) -> list[nn.Module]:
    """A block of a transformer with four heads, as two stages."""
    return [Attention(width, 4), Feedforward(width, hidden, dropout)]


def convolution(channels: int, width: int, *, pools: bool) -> nn.Sequential:
    """One stage of a CNN."""
    layers = [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pools else []))


def pyramid() -> tuple[nn.Sequential, torch.Tensor]:
    """A CNN whose first stages hold most bytes and whose last do most arithmetic for theirs."""
    stages, channels = [], 3
    for width, pools in [(16, False), (16, True), (32, False), (32, True), (64, False), (64, True), (128, False)]:
        stages.append(convolution(channels, width, pools=pools))
        channels = width
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return nn.Sequential(*stages, head).to(DEVICE), torch.randn(8, 3, 64, 64, device=DEVICE)


class Merge(nn.Module):
    """Half as many tokens, twice as wide: two neighbors become one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, 2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, width) to (B, T / 2, 2 width)."""
        return self.linear(x.unflatten(1, (-1, 2)).flatten(2))


def tapering() -> tuple[nn.Sequential, torch.Tensor]:
    """A transformer that merges tokens on the way, as hierarchical vision transformers do."""
    stages: list[nn.Module] = []
    for width in (32, 64, 128):
        stages += [*block(width, 4 * width), *block(width, 4 * width), Merge(width)]
    return nn.Sequential(*stages[:-1]).to(DEVICE), torch.randn(4, 512, 32, device=DEVICE)


def mixed() -> tuple[nn.Sequential, torch.Tensor]:
    """A transformer whose hidden layers are from half to eight times the width."""
    stages = [stage for hidden in (64, 1024, 128, 64, 1024, 256, 64, 512) for stage in block(128, hidden)]
    return nn.Sequential(*stages).to(DEVICE), torch.randn(4, 128, 128, device=DEVICE)


def mlp() -> tuple[nn.Sequential, torch.Tensor]:
    """Layers from 32 to 2048 wide."""
    widths = [256, 1024, 256, 32, 512, 2048, 128, 512, 32]
    stages = [nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.LayerNorm(b)) for a, b in pairwise(widths)]
    return nn.Sequential(*stages).to(DEVICE), torch.randn(512, 256, device=DEVICE)


def even() -> tuple[nn.Sequential, torch.Tensor]:
    """A transformer of six equal blocks with dropout."""
    stages = [stage for _ in range(6) for stage in block(128, 512, dropout=0.1)]
    return nn.Sequential(*stages).to(DEVICE), torch.randn(4, 128, 128, device=DEVICE)


def segments(model: nn.Sequential, call: Call) -> Call:
    """Return a step of training with every stage of ``model`` under ``call(stage, x)``."""

    def step(x: torch.Tensor) -> None:
        for stage in model:
            x = call(stage, x)
        x.backward(torch.ones_like(x))

    return step


def planned(model: nn.Sequential, plan: PlanReport) -> Call:
    """Return a step of training by a plan."""

    def step(x: torch.Tensor, gradient: torch.Tensor) -> None:
        run_plan(tuple(model), plan, x).backward(gradient)

    return step


def fresh(model: nn.Sequential, *arguments: torch.Tensor, grad: bool = True) -> tuple[torch.Tensor, ...]:
    """Return the arguments of a step, the first needing grad or not, with no gradients on the model."""
    model.zero_grad()
    return (arguments[0].detach().requires_grad_(grad), *arguments[1:])


def plain(function: Call, x: Any) -> Any:
    """Call it."""
    return function(x)


theirs = partial(torch_checkpoint, use_reentrant=False)


def compare(make: Callable[[], tuple[nn.Sequential, torch.Tensor]], rounds: int, **calls: Call) -> MeasureReport:
    """Time and measure calls of the same segments by turns."""
    model, x = make()
    steps = {name: segments(model, call) for name, call in calls.items()}
    return measure(inputs=lambda: fresh(model, x), rounds=rounds, **steps)


def same_segments() -> Table:
    """Ours and PyTorch's on the same segments."""
    rows = []
    for make in (pyramid, tapering, mixed, mlp, even):
        report = compare(make, 11, ours=checkpoint, theirs=theirs, plain=plain)
        ours, others, limit = (report[name] for name in ("ours", "theirs", "plain"))
        rows.append(
            (
                make.__name__,
                format_seconds(ours.median_seconds),
                f"{report.ratio('ours', 'theirs'):.3f}",
                f"{report.ratio('ours', 'plain'):.2f}",
                format_bytes(ours.peak_bytes),
                f"{ours.peak_bytes / others.peak_bytes:.4f}",
                f"{ours.peak_bytes / limit.peak_bytes:.2f}",
            )
        )
    columns = ("", "step", "to torch's", "to plain", "peak", "to torch's", "to plain")
    return Table(columns, rows, title="Every stage a checkpoint; plain keeps everything")


def overhead() -> Table:
    """What a checkpoint of next to nothing costs: the price of the bookkeeping alone."""
    x = torch.ones(8, requires_grad=True, device=DEVICE)
    steps = {
        name: lambda x, call=call: call(torch.sin, x).backward(x)
        for name, call in {"ours": checkpoint, "theirs": theirs, "plain": plain}.items()
    }
    report = measure(inputs=lambda: (x,), rounds=31, **steps)
    rows = [(t.name, format_seconds(t.median_seconds), f"{report.ratio(t.name, 'theirs'):.2f}") for t in report.timings]
    return Table(("", "forward + backward", "to torch's"), rows, title="A checkpoint around one sin of 8 numbers")


def ladder() -> Table:
    """Every rung on the same segments, and what it reruns."""
    rungs = (plain, rerun_in_function, rerun_on_hooks, rerun_until_enough, rerun_as_it_was, checkpoint)
    names = {rung.__name__: rung for rung in rungs} | {"with keep_matmuls": partial(checkpoint, policy=keep_matmuls)}
    report = compare(mlp, 7, **names)
    rows = [
        (
            name,
            format_seconds(report[name].median_seconds),
            f"{report.ratio(name, 'plain'):.2f}",
            format_bytes(report[name].peak_bytes),
            f"{report[name].peak_bytes / report['plain'].peak_bytes:.2f}",
        )
        for name in names
    ]
    return Table(("rung", "step", "to plain", "peak", "to plain"), rows, title="The ladder, on mlp")


def policies() -> Table:
    """Keeping matrix products, with ours and with PyTorch's selective checkpointing of the same operators."""

    def chooses(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if keep_matmuls(operator) else CheckpointPolicy.PREFER_RECOMPUTE

    selective = partial(theirs, context_fn=partial(create_selective_checkpoint_contexts, chooses))
    ours = partial(checkpoint, policy=keep_matmuls)
    rows = []
    for make in (tapering, even):
        report = compare(make, 7, ours=ours, theirs=selective, everything=checkpoint, plain=plain)
        rows.append(
            (
                make.__name__,
                *(f"{report.ratio('ours', name):.3f}" for name in ("theirs", "everything", "plain")),
                *(f"{report['ours'].peak_bytes / report[n].peak_bytes:.3f}" for n in ("theirs", "everything", "plain")),
            )
        )
    columns = ("", "time: to torch's", "to none", "to plain", "peak: to torch's", "to none", "to plain")
    return Table(columns, rows, title="policy=keep_matmuls, to torch's selective, to no policy, to plain")


def uniform_seconds(plan: PlanReport, num_segments: int) -> float:
    """Return the seconds that ``checkpoint_sequential`` runs again, from the same measured costs."""
    costs = [unit.cost for unit in plan.units]
    size = len(costs) // num_segments
    ends = range(size, size * num_segments, size)
    return sum(
        sum(cost.forward_seconds for cost in costs[end - size : end - 1]) + costs[end - 1].rerun_seconds for end in ends
    )


Uniform = dict[int, tuple[int, Call]]


def uniform_steps(model: nn.Sequential, x: torch.Tensor, gradient: torch.Tensor) -> Uniform:
    """Return, for every number of segments, the bytes of ``checkpoint_sequential`` and its step."""

    def make(count: int) -> Call:
        def step(x: torch.Tensor, gradient: torch.Tensor) -> None:
            checkpoint_sequential(model, count, x, use_reentrant=False).backward(gradient)

        return step

    found = {}
    for count in range(2, len(model) + 1):
        step = make(count)
        step(*fresh(model, x, gradient, grad=False))
        found[count] = allocation(step, *fresh(model, x, gradient, grad=False)).peak_bytes, step
    return found


def under_budget(
    model: nn.Sequential, x: torch.Tensor, gradient: torch.Tensor, uniform: Uniform, budget: int
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a row beside the best uniform checkpoints, and rows of predictions beside measurements."""
    plan, free = (plan_checkpoints(model, num_bytes, x, rounds=5) for num_bytes in (budget, 2**50))
    assert [unit.stages for unit in plan.units] == [(i,) for i in range(len(model))]
    again, count = min((uniform_seconds(plan, count), count) for count, (peak, _) in uniform.items() if peak <= budget)
    report = measure(
        inputs=lambda: fresh(model, x, gradient, grad=False),
        rounds=7,
        plan=planned(model, plan),
        uniform=uniform[count][1],
        plain=planned(model, free),
    )
    against = (
        format_bytes(budget),
        str(count),
        format_seconds(again),
        format_seconds(plan.recomputed_seconds),
        f"−{1 - plan.recomputed_seconds / again:.0%}",
        f"{report.ratio('plan', 'uniform'):.3f}",
    )
    predictions = [
        (
            name,
            format_bytes(report[name].peak_bytes),
            f"{one.predicted_peak_bytes / report[name].peak_bytes:.4f}",
            format_seconds(report[name].median_seconds),
            f"{one.predicted_seconds / report[name].median_seconds:.2f}",
        )
        for name, one in (("plan", plan), ("plain", free))
    ]
    return against, predictions


def plans() -> tuple[Table, Table]:
    """Under the budgets of uniform checkpoints: what is run again; and predictions beside measurements."""
    against, predictions = [], []
    for make in (pyramid, tapering, mixed, mlp):
        model, x = make()
        gradient = torch.ones_like(model(x))
        uniform = uniform_steps(model, x, gradient)
        budgets = sorted({peak for peak, _ in uniform.values()})
        for budget in dict.fromkeys((budgets[0], budgets[len(budgets) // 2])):
            row, rows = under_budget(model, x, gradient, uniform, budget)
            against.append((make.__name__, *row))
            predictions += [(make.__name__, *row) for row in rows]
    columns = ("", "budget", "segments", "rerun, uniform", "rerun, plan", "less", "step, to uniform")
    others = ("", "", "peak", "predicted, to it", "step", "predicted, to it")
    return (
        Table(columns, against, title="A plan and the best checkpoint_sequential under the same budget"),
        Table(others, predictions, title="Predictions and measurements"),
    )


def main() -> None:
    """Print the tables."""
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {where}\n")
    for make_table in (same_segments, overhead, ladder, policies):
        print(Drawing(make_table()), "\n", flush=True)
    print(Drawing(*plans()))


if __name__ == "__main__":
    main()
