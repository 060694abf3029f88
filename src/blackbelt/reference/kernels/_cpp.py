"""The backend in C++ for the CPU, ``csrc/cpu``: vectors of ``at::vec``, threads of ``at::parallel_for``.

Built by :mod:`._build` before anything here is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blackbelt.reference.kernels._build import operators_of

RUNGS = ("naive", "tiles", "registers")  # of matmul; a CPU's tensor cores would be AMX, which few have

__getattr__ = operators_of("blackbelt_cpu")


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return the product by one rung of the ladder."""
    if rung not in RUNGS:
        raise ValueError(f"rung is {rung!r}; on the CPU there are {', '.join(map(repr, RUNGS))}")
    product: Tensor = torch.ops.blackbelt_cpu.matmul(a, b, rung)
    return product
