"""Attention: time, bytes and fraction of the matmul peak, beside PyTorch's own kernel and the plain formula.

Run ``python benchmarks/attention.py``; ``--quick`` leaves out the lengths above 2k. On a GPU the same table is made in
bfloat16, with PyTorch's best backend as the peer. Contestants take turns; a ratio is the median of the ratios of the
rounds. The limit is what a large matrix product reaches on this machine in the same minute: forward is two products of
L × S × D, forward + backward seven, and half of that under a causal mask.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackbelt.measurement import MeasureReport, measure, measure_growth
from blackbelt.reference.attention import (
    chunked_attention,
    memory_efficient_attention,
    naive_attention,
    recomputed_attention,
    skipping_attention,
)
from blackbelt.report import format_bytes, format_seconds

HEADS = 4
CUDA = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)


def inputs(length: int, head_size: int) -> tuple[Tensor, ...]:
    """Return query, key, value."""
    heads = 16 if CUDA else HEADS
    return tuple(torch.randn(1, heads, length, head_size, device=DEVICE, dtype=DTYPE) for _ in range(3))


def forward(function: Callable[..., Tensor], **kwargs: Any) -> Callable[..., Any]:
    """Return the forward alone."""

    def call(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return function(*tensors, **kwargs)

    return call


def both(function: Callable[..., Tensor], **kwargs: Any) -> Callable[..., Any]:
    """Return forward and backward."""

    def call(*tensors: Tensor) -> Any:
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = function(*leaves, **kwargs)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return call


def matmul_peak() -> float:
    """Return the operations per second of a large matrix product, here and now."""
    size = 8192 if CUDA else 2048
    report = measure(
        product=torch.mm,
        inputs=lambda: (torch.randn(size, size, device=DEVICE, dtype=DTYPE),) * 2,
        rounds=5,
    )
    return 2 * size**3 / min(report["product"].round_seconds)


def row(length: int, head_size: int, is_causal: bool, what: str, *, naive: bool) -> None:
    """Measure one line of the table and print it."""
    wrap = forward if what == "forward" else both
    contestants = {
        "ours": wrap(memory_efficient_attention, is_causal=is_causal),
        "sdpa": wrap(scaled_dot_product_attention, is_causal=is_causal),
    }
    if naive:
        contestants["naive"] = wrap(naive_attention, is_causal=is_causal)
    report = measure(
        inputs=lambda: inputs(length, head_size), rounds=2 if length > 4096 else 5, warmup=1, **contestants
    )
    heads = 16 if CUDA else HEADS
    operations = heads * 4 * length * length * head_size * (1 if what == "forward" else 3.5) / (2 if is_causal else 1)
    reached = operations / report["ours"].median_seconds / matmul_peak()
    print(
        f"{length:>6} {head_size:>5}  {'causal' if is_causal else 'full':<7}{what:<10}"
        f"{format_seconds(report['ours'].median_seconds):>9} {format_seconds(report['sdpa'].median_seconds):>9}"
        f"{report.ratio('ours', 'sdpa'):>9.2f}{_over_naive(report):>10}{reached:>8.0%}"
        f"{format_bytes(report['ours'].peak_bytes):>11}{format_bytes(report['sdpa'].peak_bytes):>11}",
        flush=True,
    )


def _over_naive(report: MeasureReport) -> str:
    names = {timing.name for timing in report.timings}
    return f"{report.ratio('naive', 'ours'):.1f}×" if "naive" in names else "–"


def table(lengths: tuple[int, ...]) -> None:
    """Print times, ratios and bytes."""
    print(
        f"{'length':>6} {'head':>5}  {'mask':<7}{'what':<10}{'ours':>9} {'SDPA':>9}{'to SDPA':>9}{'to naive':>10}"
        f"{'of peak':>8}{'bytes':>11}{'SDPA':>11}"
    )
    for length in lengths:
        for head_size in (64, 128):
            for is_causal in (False, True):
                for what in ("forward", "and back"):
                    row(length, head_size, is_causal, what, naive=length == 4096 and head_size == 64)


def rungs(length: int = 2048) -> None:
    """Print what each rung gains: causal, head size 64."""

    def second_rung(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool) -> Tensor:
        return chunked_attention(query, key, value, is_causal=is_causal)[0]

    ladder: dict[str, Callable[..., Tensor]] = {
        "naive": naive_attention,
        "chunked_forward": second_rung,
        "recomputed": recomputed_attention,
        "skipping": skipping_attention,
        "exported": memory_efficient_attention,
    }
    report = measure(
        inputs=lambda: inputs(length, 64),
        rounds=5,
        warmup=1,
        **{name: both(function, is_causal=True) for name, function in ladder.items()},
    )
    print(f"\nThe rungs, forward and backward, causal, length {length}:\n{report}")


def large_scores(length: int = 2048) -> None:
    """Print what the maximum costs where scores are too large to go without: inputs ten times as large."""
    report = measure(
        inputs=lambda: tuple(10 * t for t in inputs(length, 64)),
        rounds=5,
        warmup=1,
        ours=both(memory_efficient_attention),
        sdpa=both(scaled_dot_product_attention),
    )
    print(f"\nScores that need the maximum, length {length}: {report.ratio('ours', 'sdpa'):.2f} of SDPA's time")


def growth() -> None:
    """Print the exponent of the bytes from 1k to 16k."""
    sizes = [1024, 2048, 4096, 8192, 16384]
    report = measure_growth(
        sizes,
        inputs=lambda n: tuple(torch.randn(1, 1, n, 64, device=DEVICE, dtype=DTYPE) for _ in range(3)),
        rounds=1,
        warmup=0,
        ours=both(memory_efficient_attention, is_causal=True),
        sdpa=both(scaled_dot_product_attention, is_causal=True),
    )
    exponents = {name: report.exponent(name, "peak_bytes") for name in ("ours", "sdpa")}
    print(
        f"\nBytes of forward + backward from {sizes[0]} to {sizes[-1]}: exponent {exponents['ours']:.2f}, "
        f"SDPA's {exponents['sdpa']:.2f}"
    )


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="lengths up to 2k only")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if CUDA else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{date.today()}  torch {torch.__version__}, Python {platform.python_version()}, {where}, {DTYPE}")
    print(f"A large matrix product: {matmul_peak() / 1e9:,.0f} GFLOP/s, the limit\n")
    table((1024, 2048) if quick else (1024, 2048, 4096, 8192))
    rungs()
    large_scores()
    growth()


if __name__ == "__main__":
    main()
