"""What the verdict of `check_function` costs, beside one gradcheck: the ratios behind lesson 2.3.

Run ``python benchmarks/functions.py``. Contestants take turns in one process. The limit is gradcheck itself: two calls
of forward for each input element, one backward for each output element; the verdict holds one gradcheck, one
gradgradcheck (the same again, over inputs and incoming gradients) and about sixty single calls. Compiling is timed
twice: the first call of the process, with the import of Dynamo, and a later one.
"""

from __future__ import annotations

import platform
import time
from typing import Any

import torch

from blackbelt.autograd.functions import check_function
from blackbelt.measurement import MeasureReport, measure


class Scale(torch.autograd.Function):
    """``y = x * weight``, with everything a complete function has."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the product."""
        return x * weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004  # given by PyTorch
        """Save both factors."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the gradients that are needed."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        return grad_output * weight if needs_x else None, grad_output * x if needs_weight else None


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two float64 inputs that require grad."""
    x, weight = (torch.randn(rows, 4, dtype=torch.float64) for _ in range(2))
    return x.requires_grad_(), weight.requires_grad_()


def gradcheck(x: torch.Tensor, weight: torch.Tensor) -> None:
    """Run PyTorch's own check."""
    assert torch.autograd.gradcheck(Scale.apply, (x, weight))


def verdict(x: torch.Tensor, weight: torch.Tensor) -> None:
    """Run all checks but compile."""
    assert check_function(Scale, x, weight).ok


def verdict_compiled(x: torch.Tensor, weight: torch.Tensor) -> None:
    """Run all checks."""
    assert check_function(Scale, x, weight, compile=True)["compile"].status == "passed"


def seconds(function: Any, *arguments: Any) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare(rows: int) -> MeasureReport:
    """Time the three by turns on inputs of ``rows`` × 4."""
    return measure(
        inputs=lambda: inputs(rows), gradcheck=gradcheck, verdict=verdict, compiled=verdict_compiled, rounds=5
    )


def main() -> None:
    """Print what the first calls cost, and the ratios when warm, for three sizes."""
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, cpu\n")
    first = [seconds(f, *inputs(1)) for f in (gradcheck, verdict, verdict_compiled)]
    print("first call in the process: gradcheck {:.1f} s, verdict {:.1f} s, with compile {:.1f} s\n".format(*first))
    for rows in (1, 4, 16):
        report = compare(rows)
        print(report)
        print(
            f"{rows} × 4: the verdict takes {report.ratio('verdict', 'gradcheck'):.1f} gradchecks, "
            f"with compile {report.ratio('compiled', 'gradcheck'):.1f}\n"
        )


if __name__ == "__main__":
    main()
