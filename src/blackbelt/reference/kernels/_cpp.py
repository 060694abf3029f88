"""The backend in C++ for the CPU, ``csrc/cpu``: vectors of ``at::vec``, threads of ``at::parallel_for``.

Built by :mod:`._build` before this module is imported.
"""

from __future__ import annotations

import torch
from torch import Tensor

RUNGS = ("naive", "tiles", "registers")  # of matmul; a CPU's tensor cores would be AMX, which few have

_built = torch.ops.blackbelt_cpu

bias_gelu = _built.bias_gelu
bias_gelu_backward = _built.bias_gelu_backward
softmax = _built.softmax
softmax_backward = _built.softmax_backward
rms_norm = _built.rms_norm
rms_norm_backward = _built.rms_norm_backward
cross_entropy = _built.cross_entropy
cross_entropy_backward = _built.cross_entropy_backward
cross_entropy_ = _built.cross_entropy_


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return the product by one rung of the ladder."""
    if rung not in RUNGS:
        raise ValueError(f"rung is {rung!r}; on the CPU there are {', '.join(map(repr, RUNGS))}")
    product: Tensor = _built.matmul(a, b, rung)
    return product
