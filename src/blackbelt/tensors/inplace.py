"""Which line changed a tensor that backward needs, and which operation had saved it: `trace_inplace`.

Autograd saves tensors, not copies. Each saved tensor is stored with the value of its version counter, and backward
refuses where the counter has moved (``SavedVariable::unpack`` in ``torch/csrc/autograd/saved_variable.cpp``). The
refusal names neither line, and writes through ``.data`` or NumPy move no counter at all. `trace_inplace` sees both.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from blackbelt.report import Block, Prose, Report, Verdict
from blackbelt.tensors._inplace_findings import InplaceFinding
from blackbelt.tensors._inplace_fixes import NATIVE
from blackbelt.tensors._inplace_recorder import Recorder

_active = threading.local()


@dataclass(frozen=True)
class InplaceReport(Report):
    """What a trace saw: the findings, the number of tensors saved for backward and of in-place writes."""

    findings: tuple[InplaceFinding, ...]
    num_saved: int
    num_writes: int

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def blocks(self) -> Iterator[Block]:
        if self.findings:
            for finding in self.findings:
                yield from finding.blocks()
        elif self.num_saved or self.num_writes:
            yield Verdict("No tensor that backward needs was changed.", ok=True)
            yield Prose(f"Tensors saved for backward: {self.num_saved}. In-place writes seen: {self.num_writes}.")
        else:
            yield Verdict("Nothing was saved for backward here: put the forward pass inside the `with`.", ok=None)


class InplaceError(RuntimeError):
    """PyTorch's error about an in-place operation with the explanation attached, also as ``report``."""

    def __init__(self, message: str, report: InplaceReport) -> None:
        super().__init__(f"{message}\n\n{report}")
        self.report = report


class InplaceTrace:
    """The context manager that :func:`trace_inplace` returns."""

    def __init__(self, unchanged: Mapping[str, torch.Tensor]) -> None:
        self._unchanged = dict(unchanged)
        self._recorder: Recorder | None = None
        self._outermost = False
        self._start = (0, 0, 0)
        self._stop: tuple[int, int, int] | None = None

    def __enter__(self) -> InplaceTrace:
        if self._recorder is not None:
            raise RuntimeError("this trace has been entered before; make a new one: `with trace_inplace() as trace:`")
        outer: Recorder | None = getattr(_active, "recorder", None)
        self._outermost = outer is None
        self._recorder = outer or Recorder(_error)
        self._start = self._recorder.counts()
        if self._outermost:
            _active.recorder = self._recorder
            self._recorder.start()
        self._kept = self._recorder.keep(self._unchanged)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        recorder = self._recorder
        assert recorder is not None
        if error is None:
            recorder.check_kept(self._kept)
        if self._outermost:
            recorder.stop()
            _active.recorder = None
        stray = isinstance(error, RuntimeError) and not isinstance(error, InplaceError) and NATIVE in str(error)
        if stray:
            recorder.saved_before(str(error))
        self._stop = recorder.counts()
        if stray:
            raise _error(str(error), recorder.findings[-1]) from error

    @property
    def findings(self) -> tuple[InplaceFinding, ...]:
        """What was found so far, in the order in which it was found."""
        return self.report().findings

    def report(self) -> InplaceReport:
        """Return what the trace knows now. A backward that runs after the ``with`` still adds to it."""
        if self._recorder is None:
            return InplaceReport((), 0, 0)
        stop = self._recorder.counts() if self._outermost or self._stop is None else self._stop
        found = self._recorder.findings[self._start[0] : stop[0]]
        return InplaceReport(tuple(found), stop[1] - self._start[1], stop[2] - self._start[2])


def trace_inplace(unchanged: Mapping[str, torch.Tensor] | Sequence[torch.Tensor] = ()) -> InplaceTrace:
    """Return a context manager that finds the line that changed a tensor which backward needs.

    Put forward and backward inside the ``with``. Where backward refuses, or an in-place operation does, the error is
    raised as always, as an :class:`InplaceError` (a ``RuntimeError``) that says who saved the tensor, who changed it,
    both versions and the fix. Where a change went unseen (``.data``, NumPy, a raw pointer) nothing is raised, as
    always: read ``report()``. ``unchanged`` names tensors that nobody may change while the trace runs, whether
    autograd needs them or not.

    Gradients, versions, RNG and the moment of an error stay as they are. Costs some tens of microseconds per
    operation, reads every saved tensor twice (no copy is kept; no synchronization before backward, one per saved
    tensor in it). Not seen: which line wrote, inside a backward hook, a C++ extension or another thread; tensors that
    other saved-tensor hooks pack (``save_on_cpu``, inside of ``checkpoint``); ``torch.func`` transforms refuse to run
    under any saved-tensor hook.

    Raises TypeError where ``unchanged`` holds anything but tensors.

    >>> import torch
    >>> x = torch.ones(3, requires_grad=True)
    >>> with trace_inplace() as trace:
    ...     y = x.exp()
    ...     y.data.mul_(2)
    ...     y.sum().backward()
    tensor([5.4366, 5.4366, 5.4366])
    >>> finding = trace.findings[0]
    >>> finding.kind, finding.saved_by, finding.changed_by, finding.saved_version, finding.current_version
    ('unseen', 'exp', 'mul_', 0, 0)
    """
    named = dict(unchanged) if isinstance(unchanged, Mapping) else _numbered(unchanged)
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                f"unchanged holds {name} = {value!r} of type {type(value).__name__}; it takes tensors. "
                'Pass them with names: trace_inplace(unchanged={"x": x})'
            )
    return InplaceTrace(named)


def _numbered(values: Any) -> dict[str, Any]:
    if isinstance(values, torch.Tensor) or not isinstance(values, Sequence):
        raise TypeError(
            f"unchanged is a {type(values).__name__}; it takes a list or a dict of tensors. "
            'Pass them with names: trace_inplace(unchanged={"x": x})'
        )
    return {f"unchanged[{index}]": value for index, value in enumerate(values)}


def _error(message: str, finding: InplaceFinding) -> RuntimeError:
    return InplaceError(message, InplaceReport((finding,), 0, 0))
