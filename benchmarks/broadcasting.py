"""Ratios behind lesson 1.1: expand against repeat, and pairwise distances three ways.

Run ``python benchmarks/broadcasting.py``. Contestants take turns in one process. The limit of ``repeat`` is memory
bandwidth (it writes every copy); the limit of the matrix product is arithmetic, 2·N·N·D operations.
"""

from __future__ import annotations

import platform

import torch

from blackbelt.measurement import MeasureReport, measure
from blackbelt.report import format_bytes

ROWS, COLUMNS = 1024, 4096
NUM_POINTS, NUM_FEATURES = 1024, 64


def by_broadcasting(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared distances through an (N, N, D) tensor."""
    return (x[:, None] - y).square().sum(-1)


def by_expanded_square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared distances through one matrix product."""
    return torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.mT, alpha=-2).clamp_(min=0)


def copies(device: str) -> MeasureReport:
    """Stretch one row to many, as a view and as copies, alone and inside an addition."""
    return measure(
        inputs=lambda: (torch.randn(1, COLUMNS, device=device), torch.randn(ROWS, COLUMNS, device=device)),
        expand=lambda row, _: row.expand(ROWS, -1),
        repeat=lambda row, _: row.repeat(ROWS, 1),
        add_stretched=lambda row, matrix: matrix + row,
        add_repeated=lambda row, matrix: matrix + row.repeat(ROWS, 1),
    )


def distances(device: str) -> MeasureReport:
    """All pairwise squared distances, three ways."""
    shape = (NUM_POINTS, NUM_FEATURES)
    return measure(
        inputs=lambda: (torch.randn(shape, device=device), torch.randn(shape, device=device)),
        rounds=5,
        broadcasting=by_broadcasting,
        expanded_square=by_expanded_square,
        cdist=torch.cdist,
    )


def main() -> None:
    """Print both tables, the ratios and what they are measured against."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {device}\n")
    row = copies(device)
    print(row)
    written = ROWS * COLUMNS * 4
    bandwidth = written / row["repeat"].median_seconds / 2**30
    print(f"repeat / expand: {row.ratio('repeat', 'expand'):.0f}× (repeat writes {bandwidth:.1f} GiB/s)")
    print(f"add after repeat / add: {row.ratio('add_repeated', 'add_stretched'):.2f}×\n")
    pairs = distances(device)
    print(pairs)
    rate = 2 * NUM_POINTS**2 * NUM_FEATURES / pairs["expanded_square"].median_seconds / 1e9
    print(f"broadcasting / expanded square: {pairs.ratio('broadcasting', 'expanded_square'):.1f}× time")
    print(f"broadcasting / cdist: {pairs.ratio('broadcasting', 'cdist'):.1f}× time")
    peaks = [pairs[name].peak_bytes for name in ("broadcasting", "expanded_square", "cdist")]
    print(
        f"peak bytes: {', '.join(format_bytes(peak) for peak in peaks)}; {peaks[0] / peaks[1]:.0f}× and "
        f"{peaks[0] / peaks[2]:.0f}×"
    )
    print(f"the expanded square reaches {rate:.1f} GFLOP/s")


if __name__ == "__main__":
    main()
