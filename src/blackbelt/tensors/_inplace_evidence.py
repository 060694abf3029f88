"""What `trace_inplace` collects while code runs: places in the code, identities of storages, fingerprints of values."""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch
import torch.utils.checkpoint

_TORCH = os.path.dirname(torch.__file__) + os.sep  # noqa: PTH120 - compared with co_filename as text, once per frame
_OWN = (__file__[: -len("_inplace_evidence.py")] + "inplace.py", __file__[: -len("evidence.py")])
_INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = {"cpu": 1 << 16}  # elements: temporaries stay in the cache of a CPU core; a GPU wants long kernels
_GOLDEN = -7046029254386353131  # 2**64 / golden ratio as int64: neighbors get unrelated odd weights


@dataclass(frozen=True)
class Place:
    """Where something happened: the innermost line outside PyTorch, and the module or optimizer that was running there.

    ``last_line`` is larger than ``line`` where only a range of lines is known. ``code`` is the statement, once looked
    up.
    """

    file: str
    line: int
    function: str
    module: str = ""
    last_line: int = 0
    code: str = ""

    def __str__(self) -> str:
        name = "cell" if "ipykernel_" in self.file or self.file.startswith("<ipython") else Path(self.file).name
        lines = f"{self.line}-{self.last_line}" if self.last_line > self.line else f"{self.line}"
        return f"{name}:{lines}"

    def read(self) -> Place:
        """Return the place with its statement (or its lines) filled in from the source file."""
        if self.last_line > self.line:
            lines = [linecache.getline(self.file, number) for number in range(self.line, self.last_line + 1)]
            return replace(self, code=textwrap.dedent("".join(lines)).strip("\n"))
        return replace(self, code=_statement(self.file, self.line))


def here() -> Place | None:
    """Return the place of the call that is running now; None where this thread runs nothing outside PyTorch."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - reads the stack without building it
    module = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_TORCH):
            module = module or _owner(frame)
        elif not file.startswith(_OWN):
            return Place(file, frame.f_lineno, frame.f_code.co_name, module)
        frame = frame.f_back
    return None


def in_checkpoint() -> bool:
    """Whether ``torch.utils.checkpoint`` is saving its arguments now."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None and frame.f_code.co_filename != torch.utils.checkpoint.__file__:
        frame = frame.f_back
    return frame is not None


def between(first: Place | None, last: Place | None) -> Place | None:
    """Return the lines from ``first`` up to ``last``, that one left out: where an unreported write was."""
    if first is None or last is None or (first.file, first.function) != (last.file, last.function):
        return first or last
    return replace(first, last_line=max(first.line, last.line - 1))


def _owner(frame: FrameType) -> str:
    owner = frame.f_locals.get("self")
    return type(owner).__name__ if isinstance(owner, (torch.nn.Module, torch.optim.Optimizer)) else ""


def _statement(file: str, line: int) -> str:
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:  # a notebook cell with magics, or a file that changed under us
        return linecache.getline(file, line).strip()
    best: ast.stmt | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            best = node if best is None or node.lineno >= best.lineno else best
    if best is None or hasattr(best, "body"):
        return linecache.getline(file, line).strip()
    return textwrap.dedent("".join(lines[best.lineno - 1 : best.end_lineno])).strip()


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
