"""What `trace_inplace` costs, and what in-place activations save: the ratios behind lesson 1.4.

Run ``python benchmarks/inplace.py``. Contestants take turns in one process. The limit of the trace is memory bandwidth:
it reads every saved tensor twice. On small tensors the Python calls around each operator decide instead.
"""

from __future__ import annotations

import platform

import torch
from torch import nn

from blackbelt.measurement import MeasureReport, allocation, measure
from blackbelt.tensors.inplace import trace_inplace

DEPTH = 8


def network(width: int, device: str) -> nn.Sequential:
    """Return ``DEPTH`` linear layers with ReLUs."""
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers).to(device)


def step(model: nn.Module, x: torch.Tensor) -> None:
    """Run one forward and one backward pass."""
    model(x).square().mean().backward()


def traced_step(model: nn.Module, x: torch.Tensor) -> None:
    """Run the same under the trace."""
    with trace_inplace() as trace:
        step(model, x)
    assert trace.report().ok


def overhead(width: int, batch: int, device: str) -> MeasureReport:
    """Time one training step with and without the trace."""
    model = network(width, device)
    return measure(inputs=lambda: (model, torch.randn(batch, width, device=device)), plain=step, traced=traced_step)


def activations(kind: type[nn.Module], device: str) -> tuple[int, int]:
    """Return the peak bytes of a forward pass in training, out of place and in place."""
    layers = [nn.Linear(64, 64, device=device) for _ in range(DEPTH)]
    x = torch.randn(4096, 64, device=device)

    def run(x: torch.Tensor, inplace: bool) -> torch.Tensor:
        for layer in layers:
            x = kind(inplace=inplace)(layer(x))
        return x

    return allocation(run, x, False).peak_bytes, allocation(run, x, True).peak_bytes


def main() -> None:
    """Print the overhead for three sizes and the memory of two activations."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {device}\n")
    for width, batch in ((16, 16), (256, 256), (1024, 1024)):
        report = overhead(width, batch, device)
        extra = report["traced"].median_seconds - report["plain"].median_seconds
        print(report)
        print(
            f"width {width}: {report.ratio('traced', 'plain'):.2f}× time, {extra / DEPTH * 1e6:.0f} µs per layer; "
            f"{report['traced'].peak_bytes / report['plain'].peak_bytes:.2f}× peak memory\n"
        )
    for kind in (nn.ReLU, nn.LeakyReLU):
        out, inside = activations(kind, device)
        print(f"{DEPTH} × (Linear, {kind.__name__}) in training: in place needs {inside / out:.2f}× the peak memory")


if __name__ == "__main__":
    main()
