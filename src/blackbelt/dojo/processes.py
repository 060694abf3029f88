"""Processes from outside: what they are given, what they print, what they use, and how all of them are ended."""

from __future__ import annotations

import contextlib
import os
import re
import site
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

_KEPT_OUTPUT = 8_000  # characters, at either end
_PASSED_ON = re.compile(
    r"PATH|LANG|LC_\w+|TZ|PYTHONPATH|VIRTUAL_ENV|LD_LIBRARY_PATH|DYLD_\w+|CUDA_\w+|OMP_NUM_THREADS|MKL_NUM_THREADS"
    r"|SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|PROGRAMFILES|PROGRAMDATA|NUMBER_OF_PROCESSORS|PROCESSOR_\w+"
)


class Printed:
    """What was printed, both ends of it. A worker that forks ends what one request printed with a mark between NULs."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._head = self._tail = ""
        self._left_out = 0

    def read(self, pipe: IO[bytes]) -> None:
        while chunk := os.read(pipe.fileno(), 1 << 16):
            text = chunk.decode("utf-8", errors="replace")
            with self._lock:
                room = _KEPT_OUTPUT - len(self._head)
                self._head += text[:room]
                tail = self._tail + text[room:]
                self._left_out += max(0, len(tail) - _KEPT_OUTPUT)
                self._tail = tail[-_KEPT_OUTPUT:]
                self._lock.notify_all()

    def begin(self) -> None:
        with self._lock:
            self._head = self._tail = ""
            self._left_out = 0

    def until(self, number: int) -> str:
        mark = f"\0{number}\0"
        with self._lock:
            self._lock.wait_for(lambda: mark in self._head + self._tail, timeout=1.0)
        return self.text().partition(mark)[0].rstrip()

    def text(self) -> str:
        between = f"\n… {self._left_out} characters left out …\n" if self._left_out else ""
        return self._head + between + self._tail


def scrubbed_environment(folder: Path, token: str) -> dict[str, str]:
    """Return the worker's environment: what finds programs and libraries, and nothing of the learner's own."""
    kept = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name.upper())}
    own = str(folder)
    homes = dict.fromkeys(
        ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA"), own
    )
    ours = {
        "BLACKBELT_WORKER": token,
        "BLACKBELT_WORKER_FOLDER": own,
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for a GPU must not start CUDA in a process that forks
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compilers that would outlive the grade
    }
    return {**kept, **homes, **ours}


def memory_of(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        info = process.memory_info()
        return int(getattr(info, "private", info.rss))
    return 0


def with_token(token: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("BLACKBELT_WORKER") == token:
                yield process


def end_processes(processes: list[psutil.Process]) -> None:
    """Stop all of them before ending any, so that none can start another in between."""
    for step in ("suspend", "kill"):
        for process in processes:
            with contextlib.suppress(psutil.Error, OSError):
                getattr(process, step)()
