"""Kernels that are read from end to end: six operators in C++ for the CPU, CUDA C++, Triton, and PyTorch's formulas.

Each is one operator of PyTorch's dispatcher under ``blackbelt::`` (so it works under ``torch.compile``, autograd, vmap
and autocast), with the implementation chosen by ``backend=``. The rungs that lead to each are in :mod:`.ladder`.
"""

from blackbelt.reference.kernels._api import (
    bias_gelu,
    cross_entropy,
    linear_cross_entropy,
    matmul,
    rms_norm,
    softmax,
)

__all__ = ["bias_gelu", "cross_entropy", "linear_cross_entropy", "matmul", "rms_norm", "softmax"]
