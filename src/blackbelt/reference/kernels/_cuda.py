"""The backend in CUDA C++, ``csrc/cuda``: kernels in ``.cuh`` files, started by ``bindings.cu`` on PyTorch's stream.

Built by :mod:`._build` before anything here is called. Tensors arrive checked, contiguous and on one GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blackbelt.reference.kernels._build import operators_of

LSE_DTYPE = torch.float64  # of what cross_entropy returns and its backward takes
RUNGS = ("naive", "tiles", "registers", "tensor_cores")  # of matmul; the last for float32 rounds to tf32

__getattr__ = operators_of("blackbelt_cuda")


def matmul(a: Tensor, b: Tensor, rung: str) -> Tensor:
    """Return a (M, K) @ b (K, N) by one rung of the ladder; ValueError for one that there is not."""
    product: Tensor = torch.ops.blackbelt_cuda.matmul(a, b, rung)
    return product
