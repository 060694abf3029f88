"""Where something happened: the line outside PyTorch and outside these tools, and its statement as it was written."""

from __future__ import annotations

import ast
import linecache
import os
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import torch

_TORCH = os.path.dirname(torch.__file__) + os.sep  # noqa: PTH120 - compared with co_filename as text, once per frame
_OWN = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - likewise


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
