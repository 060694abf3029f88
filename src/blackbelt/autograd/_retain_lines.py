"""Which line made an autograd node: sequence numbers before and after every operation, and the line that asked for it.

Autograd numbers its nodes in the order in which a thread makes them (``at::sequence_number`` in
``aten/src/ATen/SequenceNumber.h``). Two readings of that counter around a call name the nodes that the call made,
without touching one of them and without saved-tensor hooks, which would turn off version checks and `torch.func`.
"""

from __future__ import annotations

import bisect
import inspect
import os
import sys
import sysconfig
from collections.abc import Collection, Iterator
from types import CodeType, FrameType
from typing import Any, TypeAlias

import torch
from torch.overrides import TorchFunctionMode

from blackbelt.autograd._retain_snapshot import READS_PACKED
from blackbelt.autograd._retain_source import find_call
from blackbelt.places import Place

USER, LIBRARY, TORCH, OWN = range(4)
_TORCH = os.path.dirname(torch.__file__) + os.sep  # noqa: PTH120 - compared with co_filename as text, once per frame
_OWN = (__file__[: -len("_retain_lines.py")] + "retain.py", __file__[: -len("lines.py")])
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<frozen "}
)
_Line: TypeAlias = tuple[CodeType, int]
_kinds: dict[str, int] = {}

next_number = torch._C._autograd._get_sequence_nr  # noqa: SLF001 - the counter has no public name


def kind_of(file: str) -> int:
    """Return whose code a file is: the user's, a library's, PyTorch's or this tool's."""
    kind = _kinds.get(file)
    if kind is None:
        if file.startswith(_OWN):
            kind = OWN
        elif file.startswith((_TORCH, "<eval_with_key>")):  # torch.fx names the code it generates so
            kind = TORCH
        else:
            kind = LIBRARY if file.startswith(_LIBRARIES) else USER
        _kinds[file] = kind
    return kind


class Lines(TorchFunctionMode):
    """While it is entered, notes for every operation that makes nodes which line asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._where: list[tuple[_Line | None, ...]] = []  # one line; or None and all lines above, innermost first
        self._hooked: set[int] = set()  # nodes made while saved-tensor hooks were on
        self._last = next_number()
        self.files: dict[str, None] = {}  # the user's in which nodes were made, in order

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.compiler.is_compiling():  # the compiler traces through this: nothing here may break its graph
            return func(*args, **(kwargs or {}))
        before = next_number()
        if before > self._last:  # nodes that no operation seen here made: a custom function, maybe running now
            self._note(self._last, before, (None, *_stack()))
        self._last = before
        result = func(*args, **(kwargs or {}))
        after = next_number()
        if after > before:
            line = _caller()
            if not READS_PACKED and torch._C._autograd._top_saved_tensors_default_hooks(False):  # noqa: SLF001
                self._hooked.update(range(before, after))
            if line is not None:
                self._note(before, after, (line,))
            self._last = after
        return result

    def flush(self) -> None:
        """Note the nodes made after the last operation that was seen."""
        if next_number() > self._last:
            self._note(self._last, next_number(), (None,))
            self._last = next_number()

    def _note(self, start: int, stop: int, where: tuple[_Line | None, ...]) -> None:
        self._starts.append(start)
        self._stops.append(stop)
        self._where.append(where)
        innermost = next((line for line in where if line is not None), None)
        if innermost is not None:
            self.files[innermost[0].co_filename] = None

    def is_hooked(self, number: int) -> bool:
        """Whether saved-tensor hooks were on when a node was made. Noted only where they cannot be passed by."""
        return number in self._hooked

    def forget(self, alive: Collection[int]) -> None:
        """Drop what is noted of nodes that are gone; ``alive`` holds the sequence numbers of those that are left."""
        kept = sorted({index for number in alive if (index := self._index(number)) is not None})
        self._starts = [self._starts[index] for index in kept]
        self._stops = [self._stops[index] for index in kept]
        self._where = [self._where[index] for index in kept]
        self._hooked.intersection_update(alive)

    def place(self, number: int, kind: type) -> Place | None:
        """Return the line that made a node of this sequence number; None where no operation was seen making it.

        A custom function makes its node before its ``forward`` runs, so the line is the one that called ``apply``.
        """
        index = self._index(number)
        if index is None:
            return None
        lines = [line for line in self._where[index] if line is not None]
        if self._where[index][0] is not None:
            return _place(lines[0]).read()
        function = getattr(kind, "_forward_cls", None)
        bodies = {body for name in ("forward", "setup_context") if (body := _body(function, name)) is not None}
        inside = [depth for depth, (code, _) in enumerate(lines) if code in bodies]
        if inside and inside[-1] + 1 < len(lines):
            return _place(lines[inside[-1] + 1]).read()
        near = _place(lines[0]) if lines else None
        call = find_call("apply", tuple(self.files), near, of=function.__name__) if function is not None else None
        return call.place() if call is not None else None

    def _index(self, number: int) -> int | None:
        index = bisect.bisect_right(self._starts, number) - 1
        return index if index >= 0 and number < self._stops[index] else None


def _body(function: Any, name: str) -> CodeType | None:
    return getattr(inspect.unwrap(getattr(function, name, None) or _body), "__code__", None)


def _place(line: _Line) -> Place:
    return Place(line[0].co_filename, line[1], line[0].co_name)


def _caller() -> _Line | None:
    """Return the innermost line of the user's, else of a library's, below the tool."""
    library: _Line | None = None
    for kind, line in _lines(sys._getframe(2)):  # noqa: SLF001 - reads the stack without building it
        if kind == USER:
            return line
        library = library or line
    return library


def _stack() -> tuple[_Line, ...]:
    """Return all lines of the user's below the tool, innermost first."""
    return tuple(line for kind, line in _lines(sys._getframe(2)) if kind == USER)  # noqa: SLF001


def _lines(frame: FrameType | None) -> Iterator[tuple[int, _Line]]:
    while frame is not None:
        kind = kind_of(frame.f_code.co_filename)
        if kind == OWN:
            return
        if kind in (USER, LIBRARY):
            yield kind, (frame.f_code, frame.f_lineno)
        frame = frame.f_back
