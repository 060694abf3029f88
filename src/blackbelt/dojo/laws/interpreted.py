"""Triton kernels on Triton's interpreter: that one runs, how many elements it loads, and in how large blocks.

Needs Triton (Linux) and runs on CPU tensors without a GPU: ``TRITON_INTERPRET=1`` makes ``@triton.jit`` run a kernel
with NumPy, one program after the other. :func:`interpret` asks for that, and makes the interpreter check addresses: a
kernel that forgets a mask would otherwise write over this process's memory.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded

ABSENT = "This kata needs Triton, which PyTorch brings along on Linux only. It cannot be done on this machine."
COMPILING = (
    "Triton was imported without its interpreter, and this kata looks at a kernel while it is interpreted: set "
    '`os.environ["TRITON_INTERPRET"] = "1"` in the first cell, before anything imports triton, and restart the kernel.'
)


@dataclass
class Traffic:
    """What kernels did while it was watched: launches, elements loaded, the most that one load asked for."""

    launches: int = 0
    loaded: int = 0
    largest: int = 0


_watching: list[Traffic] = []
_memory: list[tuple[int, int]] = []  # first and last address of the tensors of the launch that runs


def interpret() -> None:
    """Have ``@triton.jit`` interpret from now on. Raises ImportError where Triton is absent.

    Where Triton was imported before without its interpreter and a GPU is there, nothing is changed:
    :func:`must_interpret` then says what to do.
    """
    early = "triton" not in sys.modules
    if early or not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton.language as tl
        from triton.runtime import interpreter
        from triton.runtime.jit import JITFunction
    except ImportError:
        raise ImportError(ABSENT) from None
    if not is_interpreting():
        return
    if not early:  # what Triton wrote in Triton (`tl.zeros`, `tl.cdiv`) was made for the compiler: make it again
        for module in [tl, *(value for value in vars(tl).values() if type(value) is type(tl))]:
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    setattr(module, name, interpreter.InterpretedFunction(value.fn))
    _check_addresses(interpreter)


def is_interpreting() -> bool:
    """Say whether a kernel decorated now would be interpreted."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def must_interpret() -> None:
    """Raise RuntimeError, with what to do, where kernels would be compiled."""
    if not is_interpreting():
        raise RuntimeError(COMPILING)


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Count what kernels load in this block."""
    seen = Traffic()
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


def _check_addresses(interpreter: Any) -> None:
    """Make every load and store look at its addresses first; once for the process."""
    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    if "create_masked_load" in vars(builder):
        return
    load, store = builder.create_masked_load, builder.create_masked_store
    builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)  # twice as fast, and as on a GPU
    to_host, launch = executor._init_args_hst, executor.__call__  # noqa: SLF001 - the one place that sees the tensors

    def checked_load(pointers: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        addresses = _used(pointers, mask)
        _must_be_inside(addresses, pointers, "load")
        for seen in _watching:
            seen.loaded += addresses.size
            seen.largest = max(seen.largest, addresses.size)
        return load(pointers, mask, *rest, **more)

    def checked_store(pointers: Any, value: Any, mask: Any, *rest: Any, **more: Any) -> Any:
        _must_be_inside(_used(pointers, mask), pointers, "store")
        return store(pointers, value, mask, *rest, **more)

    @functools.wraps(to_host)
    def remembering(self: Any, *arguments: Any) -> Any:
        host = to_host(self, *arguments)
        _memory[:] = [_range(each) for each in (*host[0], *host[1].values()) if isinstance(each, torch.Tensor)]
        return host

    @functools.wraps(launch)
    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        for seen in _watching:
            seen.launches += 1
        with np.errstate(all="ignore"):  # −inf − (−inf) is NaN on a GPU, without a word
            return launch(self, *arguments, **options)

    builder.create_masked_load, builder.create_masked_store = checked_load, checked_store
    executor._init_args_hst, executor.__call__ = remembering, counted  # noqa: SLF001


def _used(pointers: Any, mask: Any) -> np.ndarray[Any, Any]:
    addresses: np.ndarray[Any, Any] = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
    return addresses


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.data_ptr() + storage.nbytes()


def _must_be_inside(addresses: np.ndarray[Any, Any], pointers: Any, what: str) -> None:
    size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
    inside = np.zeros(addresses.shape, bool)
    for first, end in _memory:
        inside |= (addresses >= first) & (addresses + np.uint64(size) <= end)
    if not inside.all():
        count = int(addresses.size - inside.sum())
        raise IndexError(f"a {what} outside of every tensor of this launch ({count} of {addresses.size} addresses)")


@dataclass(frozen=True)
class Interpreted(Law):
    """The call launches a Triton kernel."""

    why: ClassVar[str] = "The exercise is the kernel; around it there is only the launch."

    def check(self, trial: Trial) -> None:
        if not _watched(trial).launches:
            raise LawBroken("It launches no kernel", "a launch, `kernel[grid](…)`", "none")


@dataclass(frozen=True)
class Loads(Law):
    """Kernels load at most ``at_most(*arguments)`` elements, those that a mask leaves out not counted."""

    at_most: Callable[..., int]

    why: ClassVar[str] = "Memory moves a number in the time in which a GPU could compute with it a hundred times."

    def check(self, trial: Trial) -> None:
        budget, loaded = self.at_most(*trial.case.arguments), _watched(trial).loaded
        if loaded > budget:
            raise LawBroken(
                f"It loads {loaded:,} elements; {budget:,} are enough", f"at most {budget:,}", f"{loaded:,} elements"
            )


@dataclass(frozen=True)
class LoadsInBlocks(Law):
    """No load asks for more than ``at_most`` elements at once."""

    at_most: int

    why: ClassVar[str] = "A block lives in the registers of one program, and those are few: a row may be longer."

    def check(self, trial: Trial) -> None:
        largest = _watched(trial).largest
        if largest > self.at_most:
            raise LawBroken(
                f"One load asks for {largest:,} elements", f"blocks of at most {self.at_most:,}", f"{largest:,} at once"
            )


@functools.lru_cache(maxsize=1)  # several laws look at one trial after the other
def _watched(trial: Trial) -> Traffic:
    arguments = trial.case.fresh()
    with seeded(), traffic() as seen:
        trial.function(*arguments)
    return seen
