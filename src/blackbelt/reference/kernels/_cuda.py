"""The backend in CUDA C++, ``csrc/cuda``: kernels in ``.cuh`` files, started by ``bindings.cu`` on PyTorch's stream.

Built by :mod:`._build` before this module is imported. Tensors arrive checked, contiguous and on one GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

LSE_DTYPE = torch.float64  # of what cross_entropy returns and its backward takes
RUNGS = ("naive", "tiles", "registers", "tensor_cores")  # of matmul; the last for float32 rounds to tf32

_built = torch.ops.blackbelt_cuda

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
    """Return a (M, K) @ b (K, N) by one rung of the ladder; ValueError for one that there is not."""
    product: Tensor = _built.matmul(a, b, rung)
    return product
