"""Einsum: orders of contraction, einsum against bmm and broadcast-and-sum, and what a layout costs.

Run with ``uv run python benchmarks/einsum.py``. Everything is measured side by side in one process; ratios are medians
over rounds in turns. The limits named beside the figures are counts: operations of the order, bytes of the result.
"""

from __future__ import annotations

import torch

from blackbelt import explain_einsum, measure
from blackbelt.measurement import MeasureReport
from blackbelt.report import format_bytes, format_seconds


def main() -> None:
    """Measure and print one block per claim."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    orders()
    spellings()
    layouts()
    explaining()


def orders() -> None:
    """A chain of two matrices and a vector, left to right and as planned."""

    def left_to_right(a: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with torch.backends.opt_einsum.flags(enabled=False):
            return torch.einsum("ij,jk,k->i", a, b, v)

    n = 2048
    report = measure(
        left_to_right=left_to_right,
        planned=lambda a, b, v: torch.einsum("ij,jk,k->i", a, b, v),
        inputs=lambda: (torch.randn(n, n), torch.randn(n, n), torch.randn(n)),
        rounds=5,
    )
    explained = explain_einsum("ij,jk,k->i", (n, n), (n, n), (n,))
    counted = {order.name: order.flops for order in explained.orders}
    show("ij,jk,k->i, n = 2048", report, "left_to_right", "planned")
    print(f"  limit: operations {counted['left to right'] / counted['best']:.0f}×")


def spellings() -> None:
    """The same batched product by einsum, by bmm and by broadcasting."""
    for batch, n in ((16, 64), (1024, 4)):
        report = measure(
            einsum=lambda a, b: torch.einsum("bij,bjk->bik", a, b),
            bmm=torch.bmm,
            broadcast_and_sum=lambda a, b: (a.unsqueeze(-1) * b.unsqueeze(1)).sum(2),
            inputs=lambda batch=batch, n=n: (torch.randn(batch, n, n), torch.randn(batch, n, n)),
        )
        title = f"bij,bjk->bik, {batch} × {n} × {n}"
        show(title, report, "einsum", "bmm")
        show(title, report, "broadcast_and_sum", "bmm")
        print(f"  limit: the result, {format_bytes(4 * batch * n * n)}")


def layouts() -> None:
    """Attention scores with the heads inside and outside of the time dimension."""
    report = measure(
        heads_inside=lambda q, k, *_: torch.einsum("bqhd,bkhd->bhqk", q, k),
        heads_outside=lambda *tensors: torch.einsum("bhqd,bhkd->bhqk", *tensors[2:]),
        inputs=lambda: (
            *(torch.randn(4, 256, 8, 64) for _ in range(2)),
            *(torch.randn(4, 8, 256, 64) for _ in range(2)),
        ),
    )
    show("attention scores, 4 × 8 heads × 256 × 64", report, "heads_inside", "heads_outside")
    print(f"  limit: the scores, {format_bytes(4 * 4 * 8 * 256 * 256)}")


def explaining() -> None:
    """What ``explain_einsum`` costs; no data is touched, so the size does not matter."""
    report = measure(
        explain=lambda: explain_einsum("bi,oij,bj->bo", (64, 32), (24, 32, 32), (64, 32)),
        explain_large=lambda: explain_einsum("bi,oij,bj->bo", (6400, 3200), (2400, 3200, 3200), (6400, 3200)),
    )
    show("explain_einsum, sizes × 100", report, "explain_large", "explain")


def show(title: str, report: MeasureReport, slow: str, fast: str) -> None:
    """Print the ratio of two contestants, their medians and their peaks."""
    print(f"{title}: {slow} / {fast} = {report.ratio(slow, fast):.2f}×")
    for name in (slow, fast):
        timing = report[name]
        print(f"  {name:<18}{format_seconds(timing.median_seconds):>10}  peak {format_bytes(timing.peak_bytes)}")


if __name__ == "__main__":
    main()
