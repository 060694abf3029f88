"""Limits that a grading process puts on itself before it runs a learner's code."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_PROCESSES = 16
_MAX_FILE_BYTES = 1 << 30
_PROCESS_EVENTS = (
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
)


_counting = True


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Start processes of the grader's own, which count for no one."""
    global _counting  # noqa: PLW0603  # an audit hook sees events, not who caused them
    before, _counting = _counting, False
    try:
        yield
    finally:
        _counting = before


def count_again() -> None:
    """Count from here on: for a process that was started within :func:`uncounted`."""
    global _counting  # noqa: PLW0603  # likewise
    _counting = True


def count_processes() -> None:
    """Refuse to start more than ``MAX_PROCESSES`` processes, counted over this process and its forks."""
    counter = mmap.mmap(-1, 1)

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if event in _PROCESS_EVENTS and _counting:
            started = counter[0]
            if started >= MAX_PROCESSES:
                raise PermissionError(f"your code tried to start more than {MAX_PROCESSES} processes")
            counter[0] = started + 1

    sys.addaudithook(hook)


def set_limits(seconds: float, memory_bytes: int) -> None:
    """Limit this process's CPU time, memory and size of files, where the system can (not on Windows)."""
    try:
        import resource
    except ImportError:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = int(usage.ru_utime + usage.ru_stime + (seconds + 5) * (os.cpu_count() or 1))
    wanted = {"RLIMIT_CORE": 0, "RLIMIT_CPU": cpu_seconds, "RLIMIT_FSIZE": _MAX_FILE_BYTES}
    if sys.platform == "linux":  # private writable memory; RLIMIT_AS would count what CUDA only reserves
        wanted["RLIMIT_DATA"] = _data_bytes() + memory_bytes
    for name, value in wanted.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (allowed, allowed))


def _data_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmData"].split()[0]) * 1024
