"""What may be passed to the kernels, and what is said of anything else: the argument, what it was, what is allowed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from blackbelt.reference.kernels._backends import BACKENDS

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DEVICES = ("cpu", "cuda", "meta")


def check_backend(backend: Any) -> None:
    """Refuse a name that is no backend. Whether it can run here is found out where it runs."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; allowed are {', '.join(map(repr, BACKENDS))}")


def check_tensor(name: str, tensor: Any, *, dims: int | None = None, layout: str = "(..., C)") -> None:
    """Refuse what is no floating point tensor with at least one dimension, or with exactly ``dims``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a tensor of shape {layout}")
    if tensor.dim() < 1 if dims is None else tensor.dim() != dims:
        wanted = "at least one dimension is" if dims is None else f"{dims} dimension{'s are' if dims > 1 else ' is'}"
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {wanted} needed: {layout}")
    if tensor.dtype not in FLOATING:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING)
        raise TypeError(f"{name} has dtype {tensor.dtype}; allowed are {allowed}: try {name}.float()")
    if tensor.device.type not in DEVICES:
        raise ValueError(f"{name} is on {tensor.device}; the kernels run on the CPU and on CUDA GPUs: try {name}.cpu()")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; it must be a dense tensor: try {name}.to_dense()")


def check_matches(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse a tensor of another device or dtype than the first argument."""
    check_device(name, tensor, other_name, other)
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{name} has dtype {tensor.dtype} and {other_name} {other.dtype}; they must be the same: "
            f"try {name}.to({other_name}.dtype)"
        )


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Refuse a tensor on another device than the first argument."""
    if tensor.device != other.device:
        raise ValueError(
            f"{name} is on {tensor.device} and {other_name} on {other.device}; they must be on the same device: "
            f"try {name}.to({other_name}.device)"
        )


def check_columns(name: str, vector: Any, other_name: str, other: Tensor) -> None:
    """Refuse a vector that does not have one element for each column of the first argument."""
    check_tensor(name, vector, dims=1, layout="(C,)")
    check_matches(name, vector, other_name, other)
    if vector.size(0) != other.size(-1):
        raise ValueError(
            f"{name} has {vector.size(0)} elements and the last dimension of {other_name} {other.size(-1)}; they must "
            f"be equal ({other_name} {tuple(other.shape)})"
        )


def check_linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:  # noqa: A002  (PyTorch's name for it)
    """Refuse a layer that does not fit its input."""
    check_matches("weight", weight, "input", input)
    if weight.size(1) != input.size(-1):
        raise ValueError(
            f"weight has {weight.size(1)} columns and the last dimension of input {input.size(-1)}; they must be equal "
            f"(input {tuple(input.shape)}, weight {tuple(weight.shape)})"
        )
    if bias is None:
        return
    check_matches("bias", bias, "input", input)
    if bias.size(0) != weight.size(0):
        raise ValueError(
            f"bias has {bias.size(0)} elements and weight {weight.size(0)} rows, one for each class; they must be "
            f"equal (weight {tuple(weight.shape)})"
        )


def check_eps(eps: Any) -> None:
    """Refuse an eps that is no finite number of at least 0."""
    if eps is not None and not (isinstance(eps, (int, float)) and math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps is {eps!r}; it must be a finite number of at least 0, or None for finfo(dtype).eps")


def check_target(target: Any, name: str, first: Tensor) -> None:
    """Refuse a target that does not hold one class number for every row of the first argument."""
    shape = tuple(first.shape[:-1])
    if not isinstance(target, Tensor):
        raise TypeError(f"target is a {type(target).__name__}; it must be an int64 tensor of shape {shape}")
    if target.dtype != torch.int64:
        hint = "probabilities are not supported" if target.is_floating_point() else "try target.long()"
        raise TypeError(f"target has dtype {target.dtype}; it must hold class numbers as int64 ({hint})")
    check_device("target", target, name, first)
    if tuple(target.shape) != shape:
        hint = ""
        if name == "logits" and first.dim() > 2 and target.shape == first.shape[:1] + first.shape[2:]:
            hint = "; classes are the last dimension here: try logits.movedim(1, -1)"
        raise ValueError(
            f"target has shape {tuple(target.shape)}; it must be {shape}, one class for every row of {name} "
            f"{tuple(first.shape)}{hint}"
        )


def check_loss_options(ignore_index: Any, reduction: Any, reductions: tuple[str, ...]) -> None:
    """Refuse a reduction that is unknown, and an ignore_index that is no int."""
    if reduction not in reductions:
        raise ValueError(f"reduction is {reduction!r}; allowed are {', '.join(map(repr, reductions))}")
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"ignore_index is {ignore_index!r}; it must be an int")


def check_chunk_rows(chunk_rows: Any) -> None:
    """Refuse a number of rows that is no positive int."""
    if chunk_rows is None:
        return
    if not isinstance(chunk_rows, int) or isinstance(chunk_rows, bool) or chunk_rows < 1:
        raise ValueError(f"chunk_rows is {chunk_rows!r}; it must be an int of at least 1, or None for a choice")


def check_overwritable(logits: Tensor) -> None:
    """Refuse logits whose memory cannot take the gradient."""
    if logits.is_leaf and logits.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "inplace=True would overwrite logits, which is a leaf that requires grad: its values would be lost to you. "
            "Pass a result of your model, logits.clone(), or inplace=False"
        )
    check_contiguous(logits)


def check_contiguous(logits: Tensor) -> None:
    """Refuse logits that lie in memory in any other way than row after row."""
    if not logits.is_contiguous():
        raise ValueError(
            f"inplace=True would overwrite logits, which has shape {tuple(logits.shape)} and strides "
            f"{logits.stride()}: it must be contiguous, so that every element has its own place and no copy is needed. "
            f"Pass logits.contiguous(), or inplace=False"
        )


def check_targets_in_range(target: Tensor, classes: int, ignore_index: int) -> None:
    """Refuse a class number that there is no column for. Reads the targets: on the CPU only."""
    counted = target[target != ignore_index]
    if not counted.numel():
        return
    low, high = (int(v) for v in counted.aminmax())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        allowed = f"0 to {classes - 1}" if classes else "none, as there are no classes,"
        raise IndexError(f"target holds {wrong}; allowed are {allowed} and ignore_index, {ignore_index}")
