"""What `trace_inplace` collects while code runs: identities of storages, versions, fingerprints of values."""

from __future__ import annotations

import functools
import sys
from types import FrameType

import torch
import torch.utils.checkpoint

_INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = {"cpu": 1 << 16}  # elements: temporaries stay in the cache of a CPU core; a GPU wants long kernels
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio as int64: neighbors get unrelated odd weights


def in_checkpoint() -> bool:
    """Whether ``torch.utils.checkpoint`` is saving its arguments now."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename != torch.utils.checkpoint.__file__:
        frame = frame.f_back
    return frame is not None


def storage_key(tensor: torch.Tensor) -> int | None:
    """Return what identifies the tensor's memory while it lives; None for tensors without a storage (sparse)."""
    try:
        key: int = tensor.untyped_storage()._cdata  # noqa: SLF001 - the only identity of a storage that a view shares
    except (NotImplementedError, RuntimeError):
        return None
    return key


def is_foreign(tensor: torch.Tensor) -> bool:
    """Whether memory is shared with NumPy: PyTorch then forbids resizing (``torch/csrc/utils/tensor_numpy.cpp``)."""
    return storage_key(tensor) is not None and not tensor.untyped_storage().resizable()


def version_of(tensor: torch.Tensor) -> int | None:
    """Return ``tensor._version``; None for inference tensors, which have none."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001


def fingerprint(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return a 0-d int64 hash of the values, sensitive to their bits and their order; None where values cannot be read.

    Any change of a single element changes the hash (its weight is odd, so no difference is lost modulo 2**64). Reads
    the memory once, allocates at most a few MiB, and does not wait for a GPU.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        return None
    bits = tensor.detach().resolve_conj().resolve_neg()
    for dimension, stride in enumerate(bits.stride()):
        if stride == 0:  # expanded: one element stands for all
            bits = bits.narrow(dimension, 0, min(1, bits.shape[dimension]))
    if bits.is_complex():
        bits = torch.view_as_real(bits)
    strides = bits.stride()
    bits = bits.permute(sorted(range(bits.dim()), key=lambda d: -strides[d]))  # a transposed weight needs no copy
    flat = bits.reshape(-1).view(_INTS[bits.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in flat.split(_CHUNK.get(tensor.device.type, 1 << 22)) if len(flat) else ():
        total = total * 31 + (chunk.long() * _weights(tensor.device)[: len(chunk)]).sum()
    return total


@functools.cache
def _weights(device: torch.device) -> torch.Tensor:
    return torch.arange(_CHUNK.get(device.type, 1 << 22), dtype=torch.int64, device=device) * _GOLDEN | 1
