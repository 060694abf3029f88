"""The backend in C++ for the CPU, ``csrc``: float32, no mask but the causal one, no dropout. Built on first use."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from blackbelt.reference.kernels import _build

_HERE = Path(__file__).parent / "csrc"
EXTENSION = _build.Extension("blackbelt_attention", (_HERE / "backward.cpp", _HERE / "forward.cpp"), seconds=30)
_PANEL = {"AVX512": 32, "AVX2": 16}  # columns that the micro-kernel computes at once; 8 where vectors have 4 lanes


def obstacle(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout_p: float) -> str | None:
    """Return why the kernels cannot run this call, or None."""
    if query.device.type != "cpu":
        return f"query is on {query.device}, not on the CPU"
    if query.dtype != torch.float32:
        return f"query is {query.dtype}, and the kernels take float32"
    if mask is not None or dropout_p:
        return "attn_mask and dropout_p are not among what the kernels take"
    if not query.numel() or not key.numel() or not value.numel():
        return "a tensor is empty"
    panel: int
    missing: str | None
    panel, missing = _machine()
    if query.size(-1) % panel or value.size(-1) % panel:
        return f"the head sizes {query.size(-1)} and {value.size(-1)} are no multiples of {panel}"
    return missing


def forward(  # noqa: PLR0917  (in the order of the operator's)
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float, out: Tensor, lse: Tensor
) -> None:
    """Write the result (B, H, L, V) and the log-sum-exp (B, H, L), in units of log 2."""
    _build.load_extension(EXTENSION)
    room = _rows(out)
    torch.ops.blackbelt_attention.forward(*map(_rows, (query, key, value)), is_causal, scale, room, lse)
    _write(room, out)


def backward(  # noqa: PLR0917  (in the order of the operator's)
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, laid out as these are."""
    _build.load_extension(EXTENSION)
    inputs = (query, key, value)
    results = [torch.zeros_like(t) for t in inputs]
    rooms = [_rows(t) for t in results]
    rows = map(_rows, (grad_out, *inputs, out))
    torch.ops.blackbelt_attention.backward(*rows, lse, is_causal, scale, *rooms)
    for room, result in zip(rooms, results):
        _write(room, result)
    return results[0], results[1], results[2]


def has_work_for_threads(key: Tensor) -> bool:
    """Return whether the backward keeps at least half of the threads busy: each has whole heads of keys."""
    return 2 * key.size(0) * key.size(1) >= torch.get_num_threads()


def _rows(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy of it, with the elements of a row side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _write(room: Tensor, result: Tensor) -> None:
    if room is not result:
        result.copy_(room)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # torch.compile asks once, and traces nothing
def _machine() -> tuple[int, str | None]:
    """Return the columns that the micro-kernel computes at once, and why the kernels cannot be built here, or None."""
    return _found()


@functools.cache
def _found() -> tuple[int, str | None]:
    return _PANEL.get(torch.backends.cpu.get_cpu_capability(), 8), _build.obstacle_to(EXTENSION)
