"""What `trace_retained` costs: the time of a step with its lines noted, and of the looks between the steps.

Run ``python benchmarks/retain.py``. Contestants take turns in one process. Two parts are measured apart: `Lines`, which
runs inside a step (its limit is one Python call per operator), and a whole trace, whose limit is the collector: it
visits every Python object of the process three times, and every node that stays alive once per step.
"""

from __future__ import annotations

import gc
import platform
import time

import torch
from torch import nn

from blackbelt.autograd._retain_lines import Lines
from blackbelt.autograd.retain import trace_retained
from blackbelt.measurement import measure

DEPTH = 8


def network(width: int, device: str) -> nn.Sequential:
    """Return ``DEPTH`` linear layers with ReLUs."""
    return nn.Sequential(*(layer for _ in range(DEPTH) for layer in (nn.Linear(width, width), nn.ReLU()))).to(device)


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Run one forward and one backward pass."""
    model(x).square().mean().backward()


def noted_step(model: nn.Module, x: torch.Tensor) -> None:
    """Run the same with its lines noted."""
    with Lines():
        step(model, x)


def whole_trace(num_nodes: int, steps: int, is_leak: bool) -> tuple[float, int]:
    """Return the seconds of a trace over the steps alone, and the nodes alive at the end."""
    weight = torch.ones(4, requires_grad=True)
    kept: list[torch.Tensor] = []

    def wide() -> None:
        out = torch.stack([weight * 2 for _ in range(num_nodes)]).sum()
        if is_leak:
            kept.append(out)

    start = time.perf_counter()
    for _ in range(steps):
        wide()
    plain = time.perf_counter() - start
    kept.clear()
    start = time.perf_counter()
    report = trace_retained(wide, steps)
    return time.perf_counter() - start - plain, report.nodes_per_step[-1]


def main() -> None:
    """Print the overhead inside a step for three sizes, and that of a whole trace for graphs of three sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {device}")
    for width, batch in ((16, 16), (256, 256), (1024, 1024)):
        model = network(width, device)
        report = measure(
            inputs=lambda model=model, batch=batch, width=width: (model, torch.randn(batch, width, device=device)),
            plain=step,
            noted=noted_step,
        )
        print(f"width {width}: a step takes {report.ratio('noted', 'plain'):.2f}× its time with its lines noted")
    print(f"\n{len(gc.get_objects()):,} Python objects; 6 steps")
    for num_nodes in (10, 1000, 10_000):
        for is_leak in (False, True):
            seconds, alive = whole_trace(num_nodes, 6, is_leak)
            print(f"{num_nodes:>6} nodes a step, {alive:>6} alive at the end: {seconds:.2f} s over the steps alone")


if __name__ == "__main__":
    main()
