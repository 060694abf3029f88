"""What the tests of ``check`` and ``watch`` share: commands run for real, and a judge that stands in for the worker."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from blackbelt.dojo.catalog import find_kata
from blackbelt.dojo.slicing import Slice
from blackbelt.dojo.verdict import KataReport, failed

KATA = "can_view"  # any kata of the course: what is tested is the command


class StandIn:
    """A judge without torch: what the function's text says is its verdict."""

    def __enter__(self) -> StandIn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def grade(self, cut: Slice, *, seconds: float, more: bool) -> KataReport:
        assert seconds > 0
        assert more in (True, False)
        if "your turn" in cut.source:
            return KataReport(cut.kata, "open", "it is still the stub", "Write the body.")
        if "RIGHT" in cut.source:
            return KataReport(cut.kata, "passed", "every law holds", "See ours.")
        return failed(cut.kata, "graded", "It is wrong", "Try again.")


def write_answers(path: Path, **bodies: str) -> Path:
    """Write a notebook with one kata cell per keyword: the function's name and its body."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [
        {
            "cell_type": "code",
            "metadata": {"blackbelt": {"kata": name}},
            "outputs": [],
            "source": f"def {name}(*a):\n    {body}",
        }
        for name, body in bodies.items()
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}), encoding="utf-8")
    return path


def real_answers(folder: Path, body: str = "") -> Path:
    """Write the course's own solution of ``KATA``, with ``body`` run first."""
    head, _, rest = find_kata(KATA).solution.partition(":\n")
    path = folder / "answers.py"
    path.write_text(f"import math\nimport torch\n\n{head}:\n    {body or 'pass'}\n{rest}\n", encoding="utf-8")
    return path


class Command:
    """``blackbelt …`` running for real; ``wait_for`` reads its output up to a line."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blackbelt", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
        )
        self.seen: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()
        self.end()

    def wait_for(self, part: str, seconds: float = 120) -> None:
        """Return when a line that holds ``part`` was printed; fail where the command ends or hangs first."""
        while True:
            line = self._lines.get(timeout=seconds)
            assert line is not None, f"the command ended before it said {part!r}: {self.seen}"
            self.seen.append(line)
            if part in line:
                return

    def end(self, seconds: float = 120) -> int:
        """Wait until the command has ended; return its exit code. ``seen`` holds all it printed."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.seen.append(line)
        if self.process.stdout:
            self.process.stdout.close()
        return code

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)
