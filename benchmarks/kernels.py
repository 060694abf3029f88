"""Kernels: time and fraction of the machine's limit, beside eager PyTorch, torch.compile and, on a GPU, Liger-Kernel.

Run ``python benchmarks/kernels.py``; ``--quick`` takes smaller tensors and float32 only. Contestants take turns; a
ratio is the median of the ratios of the rounds, above 1 where ours is faster. The limit of a row operator is
``copy_`` of a tensor of the same size, taken in the same turns: the fraction is the time in which it would move the
bytes that the operator has to (each input read once, each result written once), divided by ours. That of a matrix
product is PyTorch's. On Linux, freed memory is kept by the process, as the
allocators do that PyTorch's tuning guide recommends: otherwise every large result is fresh memory, whose pages cost
several times what any of these operators does. On a CPU ours is the backend cpp; on a GPU cuda and triton have a line
each where they can run.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from blackbelt.measurement import MeasureReport, measure
from blackbelt.reference import kernels
from blackbelt.reference.kernels import ladder
from blackbelt.reference.kernels._backends import obstacle
from blackbelt.report import format_seconds

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Operator:
    """A row operator: ours, the formula, and how many tensors of the input's size it has to move."""

    name: str
    ours: Function
    formula: Function
    moved: tuple[int, int]  # forward; forward and backward
    arguments: Callable[[Tensor], tuple[Tensor, ...]]
    liger: str | None = None


def vector(x: Tensor) -> tuple[Tensor, ...]:
    """Return the input with a vector of its columns."""
    return x, torch.randn(x.size(1), device=x.device, dtype=x.dtype)


def classes(x: Tensor) -> tuple[Tensor, ...]:
    """Return the input with one class a row."""
    return x, torch.randint(x.size(1), x.shape[:1], device=x.device)


OPERATORS = (
    Operator("bias_gelu", kernels.bias_gelu, lambda x, b: functional.gelu(x + b), (2, 5), vector),
    Operator("softmax", kernels.softmax, lambda x: torch.softmax(x, -1), (2, 5), lambda x: (x,)),
    Operator(
        "rms_norm",
        kernels.rms_norm,
        lambda x, w: functional.rms_norm(x, w.shape, w),
        (2, 5),
        vector,
        "rms_norm",
    ),
    Operator("cross_entropy", kernels.cross_entropy, functional.cross_entropy, (1, 3), classes),
)


def forward(function: Function, **kwargs: Any) -> Callable[..., Any]:
    """Return the forward alone."""

    def call(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return function(*tensors, **kwargs)

    return call


def both(function: Function, **kwargs: Any) -> Callable[..., Any]:
    """Return forward and backward."""

    def call(*tensors: Tensor) -> Any:
        leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in tensors]
        out = function(*leaves, **kwargs)
        wanted = [t for t in leaves if t.requires_grad]
        # A gradient that is full memory, as the one of a layer behind this one is, and made once.
        return torch.autograd.grad(out, wanted, _ones(out))

    return call


_made: dict[tuple[Any, ...], Tensor] = {}


def _ones(like: Tensor) -> Tensor:
    key = (like.shape, like.dtype)
    if key not in _made:
        _made.clear()
        _made[key] = torch.ones_like(like)
    return _made[key]


def backends() -> list[str]:
    """Return the backends of ours that can run here."""
    names = ("cuda", "triton") if CUDA else ("cpp",)
    there = torch.zeros(1, device=DEVICE)
    for name in names:
        if (reason := obstacle(name, there)) is not None:
            print(f"backend {name} is left out: {reason}")
    return [name for name in names if obstacle(name, there) is None]


def liger(name: str | None) -> Function | None:
    """Return Liger-Kernel's function, where it is installed and there is a GPU for it."""
    if name is None or not CUDA or importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers import functional as peers  # type: ignore[import-not-found]

    if name == "rms_norm":
        return lambda x, w: peers.liger_rms_norm(x, w, torch.finfo(torch.float32).eps, in_place=False)
    peer: Function = getattr(peers, f"liger_{name}")
    return peer


def header() -> None:
    """Print the names of the columns."""
    print(
        f"{'operator':<23}{'rows × columns':>15} {'dtype':<9}{'backend':<8}{'ours':>9}{'eager':>9}{'compiled':>9}"
        f"{'limit':>9}{'of limit':>9}{'to eager':>9}{'to comp.':>9}{'to Liger':>9}"
    )


def line(report: MeasureReport, title: str, shape: str, dtype: torch.dtype, backend: str, limit: float) -> None:
    """Print one line. ``limit`` is in units of the contestant that is called limit."""
    there = {timing.name for timing in report.timings}

    def seconds(name: str) -> str:
        return format_seconds(report[name].median_seconds) if name in there else "–"

    def ratio(name: str) -> str:
        return f"{report.ratio(name, 'ours'):.2f}" if name in there else "–"

    print(
        f"{title:<23}{shape:>15} {str(dtype).removeprefix('torch.'):<9}{backend:<8}{seconds('ours'):>9}"
        f"{seconds('eager'):>9}{seconds('compiled'):>9}{format_seconds(limit * report['limit'].median_seconds):>9}"
        f"{limit * report.ratio('limit', 'ours'):>9.0%}{ratio('eager'):>9}"
        f"{ratio('compiled'):>9}{ratio('liger'):>9}",
        flush=True,
    )


def row_operator(operator: Operator, shape: tuple[int, int], dtype: torch.dtype, rounds: int) -> None:
    """Measure a row operator, forward and with its backward."""
    tensors = operator.arguments(torch.randn(shape, device=DEVICE, dtype=dtype))
    room = torch.empty_like(tensors[0])
    for wrap, what, moved in ((forward, "", operator.moved[0]), (both, " + back", operator.moved[1])):
        torch.compiler.reset()
        others: dict[str, Callable[..., Any]] = {
            "eager": wrap(operator.formula),
            "compiled": wrap(torch.compile(operator.formula)),
            "limit": lambda *_: room.copy_(tensors[0]),
        }
        if (peer := liger(operator.liger)) is not None:
            others["liger"] = wrap(peer)
        for backend in backends():
            ours = wrap(operator.ours, backend=backend)
            report = measure(inputs=lambda: tensors, rounds=rounds, warmup=3, ours=ours, **others)
            # copy_ moves two tensors of the input's size: reads one, writes one.
            line(report, operator.name + what, f"{shape[0]} × {shape[1]}", dtype, backend, moved / 2)


def in_place(shape: tuple[int, int], dtype: torch.dtype, rounds: int) -> None:
    """Measure the cross-entropy that writes its gradient over the logits, beside forward and backward of the others."""
    logits, target = classes(torch.randn(shape, device=DEVICE, dtype=dtype))
    room = torch.empty_like(logits)
    peer = liger("cross_entropy")
    torch.compiler.reset()

    factor, overwrite = torch.tensor(1 / shape[0], device=DEVICE), torch.ops.blackbelt.cross_entropy_

    def and_back(function: Function) -> Callable[..., Any]:
        def call(_: Tensor, fresh: Tensor) -> Any:
            leaf = fresh.requires_grad_()
            return torch.autograd.grad(function(leaf, target), leaf)

        return call

    for backend in backends():
        contestants = {
            # The operator itself: a leaf may not be overwritten, and to make another tensor of it would be timed too.
            "ours": lambda _, fresh, b=backend: overwrite(fresh, target, -100, factor, b).sum(),
            "eager": and_back(functional.cross_entropy),
            "compiled": and_back(torch.compile(functional.cross_entropy)),
            "limit": lambda *_: room.copy_(logits),
        }
        if peer is not None:
            contestants["liger"] = and_back(peer)
        report = measure(inputs=lambda: (logits, logits.clone()), rounds=rounds, warmup=1, **contestants)
        line(report, "cross_entropy in place", f"{shape[0]} × {shape[1]}", dtype, backend, 1)


def linear_loss(rows: int, columns: int, num_classes: int, dtype: torch.dtype, rounds: int) -> None:
    """Measure linear + cross-entropy; its limit is its three matrix products, by PyTorch."""
    x = torch.randn(rows, columns, device=DEVICE, dtype=dtype)
    weight = torch.randn(num_classes, columns, device=DEVICE, dtype=dtype) / math.sqrt(columns)
    target = torch.randint(num_classes, (rows,), device=DEVICE)

    def formula(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(x, weight), target)

    peer = liger("fused_linear_cross_entropy")
    torch.compiler.reset()
    for backend in backends():
        contestants = {
            "ours": both(kernels.linear_cross_entropy, backend=backend),
            "eager": both(formula),
            "compiled": both(torch.compile(formula)),
            "limit": lambda *_: x @ weight.mT,
        }
        if peer is not None:
            contestants["liger"] = both(peer)
        report = measure(inputs=lambda: (x, weight, target), rounds=rounds, warmup=1, **contestants)
        line(report, "linear_ce + back", f"{rows} × {num_classes}", dtype, backend, 3)


def matmul(size: int, dtype: torch.dtype, rounds: int) -> None:
    """Measure every rung of the product; its limit is PyTorch's: cuBLAS, or MKL, or what the CPU's build has."""
    a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    for backend in backends():
        for rung, function in ladder.RUNGS["matmul"].items():
            if rung == "naive" and not CUDA and size > 512:
                continue  # minutes
            try:
                function(a, b, backend=backend)
            except ValueError:
                continue  # a rung that this backend does not have
            ours = forward(function, backend=backend)
            report = measure(inputs=lambda: (a, b), rounds=rounds, warmup=1, ours=ours, limit=torch.mm)
            line(report, f"matmul {rung}", f"{size} × {size}", dtype, backend, 1)


def rungs(shape: tuple[int, int], rounds: int) -> None:
    """Print what each rung of bias_gelu and softmax gains, on the CPU."""
    tensors = {"bias_gelu": vector(torch.randn(shape)), "softmax": (torch.randn(shape),)}
    for name, arguments in tensors.items():
        report = measure(inputs=lambda t=arguments: t, rounds=rounds, warmup=1, **ladder.RUNGS[name])
        print(f"\nThe rungs of {name}, {shape[0]} × {shape[1]}, float32:\n{report}")


def keep_freed_memory() -> None:
    """Let malloc take all memory from the heap and give nothing back (glibc's M_MMAP_MAX and M_TRIM_THRESHOLD).

    And touch more of it at once than any operator needs: else whichever contestant comes while the heap grows pays for
    the pages, 35 ms for the two tensors of a softmax with backward, which takes 8.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)
        libc.mallopt(-1, -1)
        torch.ones(3 << 28)  # 3 GiB, freed at once


def main() -> None:
    """Print everything."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller tensors, float32 only")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if CUDA else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{date.today()}  torch {torch.__version__}, Python {platform.python_version()}, {where}")
    shape = (16384, 8192) if CUDA else (2048 if quick else 4096, 4096)
    rounds = 3 if quick else 5
    room = torch.empty(shape, device=DEVICE)
    copy = measure(inputs=lambda: (torch.randn(shape, device=DEVICE),), rounds=rounds, copy=room.copy_)
    speed = 2 * room.nbytes / copy["copy"].median_seconds
    print(f"copy_ of {room.nbytes >> 20} MiB moves {speed / 1e9:,.1f} GB/s (bytes read + bytes written)\n")
    header()
    for dtype in (torch.float32,) if quick else (torch.float32, torch.bfloat16):
        for operator in OPERATORS:
            row_operator(operator, shape, dtype, rounds)
        in_place(shape, dtype, rounds)
        linear_loss(4096 if CUDA else 512, 1024 if CUDA else 256, 32000 if CUDA else 8000, dtype, 3)
        for size in (4096,) if CUDA else (512, 1024) if quick else (512, 2048):
            matmul(size, dtype, 3)
    if not CUDA and backends():
        rungs((1024, 4096), 3)


if __name__ == "__main__":
    main()
