"""Which implementation runs, and what is missing where the one asked for cannot."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "eager", "cpp", "cuda", "triton")

# The module of each backend, and what `_build` has to build for it.
_MODULES = {"eager": "_eager", "cpp": "_cpp", "cuda": "_cuda", "triton": "_triton"}
_BUILT = {"cpp": "cpu", "cuda": "cuda"}


def backend_module(backend: str, tensor: Tensor) -> Any:
    """Return the module that computes for ``tensor``; raise RuntimeError where the backend asked for cannot.

    The first call of a backend builds or imports it.
    """
    if backend == "auto":
        return _best(tensor)
    reason = obstacle(backend, tensor)
    if reason is not None:
        raise RuntimeError(f"backend={backend!r} was asked for, but {reason}; backend='eager' runs everywhere")
    return _module(backend)


def obstacle(backend: str, tensor: Tensor) -> str | None:
    """Return why a backend cannot compute for ``tensor`` here, or None."""
    if backend == "cpp":
        return f"the tensors are on {tensor.device}, not on the CPU" if tensor.is_cuda else _build_obstacle("cpu")
    if backend == "cuda":
        return _build_obstacle("cuda") if tensor.is_cuda else f"the tensors are on {tensor.device}, not on a GPU"
    if backend == "triton":
        return _triton_obstacle(tensor)
    return None


def exported_rung(module: Any, tensor: Tensor) -> str:
    """Return the last rung of a backend's matmul ladder that takes a dtype: tensor cores take half precision."""
    is_half = tensor.dtype in {torch.float16, torch.bfloat16}
    rung: str = [rung for rung in module.RUNGS if is_half or rung != "tensor_cores"][-1]
    return rung


def _best(tensor: Tensor) -> Any:
    names = ("cuda", "triton") if tensor.is_cuda else ("cpp",)
    reasons = []
    for name in names:
        reason = obstacle(name, tensor)
        if reason is None:
            try:
                return _module(name)
            except RuntimeError as error:  # a compiler that is there, and fails
                reason = str(error)
        reasons.append(f"backend {name!r}: {reason}")
    _warn_once("; ".join(reasons))
    return _module("eager")


@functools.cache
def _warn_once(reasons: str) -> None:
    warnings.warn(
        f"blackbelt.reference.kernels uses PyTorch's formulas (backend='eager') because of {reasons}",
        RuntimeWarning,
        stacklevel=2,
    )


def _triton_obstacle(tensor: Tensor) -> str | None:
    if not _has_triton():
        return "the package triton is not installed (pip install triton)"
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {tensor.device}, and Triton needs a GPU (or TRITON_INTERPRET=1, set before Python)"
    if tensor.dtype == torch.float64:
        return "the tensors are float64, which the Triton kernels do not take (float32, float16 and bfloat16 they do)"
    return None


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _build_obstacle(which: str) -> str | None:
    from blackbelt.reference.kernels import _build

    reason: str | None = _build.obstacle(which)
    return reason


@functools.cache
def _module(backend: str) -> ModuleType:
    if backend in _BUILT:
        from blackbelt.reference.kernels import _build

        _build.load(_BUILT[backend])
    return importlib.import_module(f"blackbelt.reference.kernels.{_MODULES[backend]}")
