"""The backend in C++ for the CPU, ``csrc/cpu``: vectors of ``at::vec``, threads of ``at::parallel_for``.

Built by :mod:`._build` before this module is imported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RUNGS = ("naive", "tiles", "registers")  # of matmul; a CPU's tensor cores would be AMX, which few have
OPERATORS = (
    "bias_gelu",
    "bias_gelu_backward",
    "softmax",
    "softmax_backward",
    "rms_norm",
    "rms_norm_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_",
)


def __getattr__(name: str) -> Any:
    """Return one of the operators as it was built: this module may be imported before that."""
    if name in OPERATORS:
        return getattr(torch.ops.blackbelt_cpu, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return the product by one rung of the ladder."""
    if rung not in RUNGS:
        raise ValueError(f"rung is {rung!r}; on the CPU there are {', '.join(map(repr, RUNGS))}")
    product: Tensor = torch.ops.blackbelt_cpu.matmul(a, b, rung)
    return product
