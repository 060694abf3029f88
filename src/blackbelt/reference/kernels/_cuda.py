"""The backend in CUDA C++, ``csrc/cuda``: kernels in ``.cuh`` files, started by ``bindings.cu`` on PyTorch's stream.

Built by :mod:`._build` before this module is imported. Tensors arrive checked, contiguous and on one GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LSE_DTYPE = torch.float64  # of what cross_entropy returns and its backward takes
RUNGS = ("naive", "tiles", "registers", "tensor_cores")  # of matmul; the last for float32 rounds to tf32
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
        return getattr(torch.ops.blackbelt_cuda, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return a (M, K) @ b (K, N) by one rung of the ladder; ValueError for one that there is not."""
    product: Tensor = torch.ops.blackbelt_cuda.matmul(a, b, rung)
    return product
