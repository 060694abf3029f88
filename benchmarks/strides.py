"""Ratios behind lesson 1.2: walks along and across a stride, the price of ``contiguous()``, what a slice saves.

Run ``python benchmarks/strides.py``. Contestants take turns in one process, on one thread, so that a second one does
not hide the waiting. The limit of a walk is the cache lines it fetches; the limit of a copy is the bandwidth that a
straight copy of as many bytes reaches.
"""

from __future__ import annotations

import io
import platform

import torch

from blackbelt import explain_view, measure, measure_growth, memory_map
from blackbelt.measurement import MeasureReport
from blackbelt.report import format_bytes, format_seconds

COUNT = 2**20
STRIDES = (1, 2, 4, 8, 16, 32, 64)
SIDE = 4096
LINE_BYTES = 64


def main() -> None:
    """Measure and print one block per claim."""
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, one thread\n")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        walks()
        matrix_walks()
        copies()
    finally:
        torch.set_num_threads(threads)
    saved_slices()
    explaining()


def walks() -> None:
    """Add up a million floats that lie 1 to 64 apart."""
    base = torch.ones(max(STRIDES) * COUNT)
    growth = measure_growth(
        STRIDES, inputs=lambda stride: (base[::stride][:COUNT],), rounds=9, add_up=lambda view: view.sum()
    )
    print(f"{COUNT:,} floats added up, by their distance")
    nearest = growth.curve("add_up")[0]
    for stride, seconds in zip(STRIDES, growth.curve("add_up")):
        lines = COUNT * min(stride * base.element_size(), LINE_BYTES)
        rate = format_bytes(int(lines / seconds))
        print(f"  stride {stride:2}: {format_seconds(seconds):>8}, {seconds / nearest:6.1f}×, lines at {rate}/s")
    print()


def matrix_walks() -> None:
    """The same matrix read along its rows and along its columns, and operands whose layouts agree or do not."""
    rows = range(0, SIDE, 64)
    walk = measure(
        inputs=lambda: (torch.ones(SIDE, SIDE),),
        along=lambda m: [m[i].sum() for i in rows],
        across=lambda m: [m[:, i].sum() for i in rows],
    )
    print(walk)
    print(f"across / along: {walk.ratio('across', 'along'):.1f}×\n")
    agree = measure(
        inputs=lambda: (torch.ones(SIDE, SIDE),),
        agree=lambda m: m.t() + m.t(),
        disagree=lambda m: m + m.t(),
        exp=lambda m: m.exp(),
        exp_transposed=lambda m: m.t().exp(),
    )
    print(agree)
    print(f"m + m.t() against m.t() + m.t(): {agree.ratio('disagree', 'agree'):.1f}×")
    print(f"m.t().exp() against m.exp(): {agree.ratio('exp_transposed', 'exp'):.2f}×\n")


def copies() -> None:
    """``contiguous()`` of a transpose against a straight copy of as many bytes, with and without a new allocation."""
    matrix, written = torch.ones(SIDE, SIDE), torch.zeros(SIDE, SIDE)  # touched before: no page faults in the copy
    report = measure(
        inputs=lambda: (matrix, written),
        copy=lambda m, out: out.copy_(m),
        copy_transposed=lambda m, out: out.copy_(m.t()),
        clone=lambda m, _: m.clone(),
        contiguous=lambda m, _: m.t().contiguous(),
        transpose=lambda m, _: m.t(),
    )
    print(report)
    print(f"copy of a transpose / copy: {report.ratio('copy_transposed', 'copy'):.1f}×")
    print(f"contiguous() / clone(), both with fresh memory: {report.ratio('contiguous', 'clone'):.1f}×")
    print(f"limit, reached by copy: {_rate(report, 'copy')}; copy_transposed: {_rate(report, 'copy_transposed')}\n")


def saved_slices() -> None:
    """What ``torch.save`` writes for ten numbers of a large storage."""
    big = torch.zeros(2**24)
    part = big[:10]
    print("ten floats of a 64 MiB storage")
    print(f"  numbers {part.nbytes} B, alive {format_bytes(memory_map(part).alive_bytes)}")
    print(f"  file of the slice {_saved(part):,} B, of its clone {_saved(part.clone()):,} B\n")


def explaining() -> None:
    """What the two tools cost."""
    tensor = torch.empty(8, 64, 56, 56).to(memory_format=torch.channels_last)
    report = measure(
        inputs=lambda: (tensor,),
        explain_view=lambda t: explain_view(t, 8, -1),
        memory_map=memory_map,
        memory_map_overlapping=lambda t: memory_map(t.flatten(2).unfold(2, 100, 1)),
    )
    print(report)


def _rate(report: MeasureReport, name: str) -> str:
    return f"{format_bytes(int(2 * SIDE * SIDE * 4 / report[name].median_seconds))}/s read and written"


def _saved(value: object) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return file.tell()


if __name__ == "__main__":
    main()
