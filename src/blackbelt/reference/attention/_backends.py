"""Which implementation runs, and what is missing where the one asked for cannot."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil

import torch
from torch import Tensor

from blackbelt.reference.attention import _cpp

BACKENDS = ("auto", "eager", "cpp", "compiled", "triton")
MAX_TRITON_HEAD_SIZE = 256


def choose_backend(
    backend: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float
) -> str:
    """Return ``eager``, ``cpp``, ``compiled`` or ``triton``; raise where the backend asked for cannot run this call."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; allowed are {', '.join(map(repr, BACKENDS))}")
    if backend == "auto":
        if query.is_cuda:
            return "triton" if triton_obstacle(query, value, mask) is None else "eager"
        return "cpp" if _cpp.obstacle(query, key, value, mask, dropout_p) is None else "eager"
    obstacle = None
    if backend == "cpp":
        obstacle = _cpp.obstacle(query, key, value, mask, dropout_p)
    if backend == "triton":
        obstacle = triton_obstacle(query, value, mask)
    elif backend == "compiled":
        obstacle = compiler_obstacle()
    if obstacle is not None:
        raise RuntimeError(f"backend={backend!r} was asked for, but {obstacle}; backend='eager' runs everywhere")
    return backend


def triton_obstacle(query: Tensor, value: Tensor, mask: Tensor | None) -> str | None:
    """Return why the Triton kernels cannot run this call, or None."""
    if not _has_triton():
        return "the package triton is not installed (pip install triton)"
    if not query.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"query is on {query.device}, and Triton needs a GPU (or TRITON_INTERPRET=1, set before Python starts)"
    if query.dtype == torch.float64:
        return "query is float64, which the kernels do not take (float32, float16 and bfloat16 they do)"
    if max(query.size(-1), value.size(-1)) > MAX_TRITON_HEAD_SIZE:
        return f"the head size is {max(query.size(-1), value.size(-1))}, and the kernels take up to 256"
    if mask is not None and mask.requires_grad:
        return "attn_mask requires a gradient, which the kernels do not compute"
    return None


@functools.cache
def compiler_obstacle() -> str | None:
    """Return why ``torch.compile`` cannot run here, or None."""
    if importlib.util.find_spec("torch._inductor") is None:
        return "this build of PyTorch has no torch.compile"
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if not any(name and shutil.which(name) for name in names):
        return "no C++ compiler was found for torch.compile (set CXX, or install g++ or clang++)"
    return None


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
