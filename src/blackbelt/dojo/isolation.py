"""Grade in a process of its own, and turn every way that process can end into a clear verdict. Imports no torch.

A :class:`Worker` is started early, so that its import of torch overlaps with other work. Its limits (wall-clock,
memory, number of processes) are watched from here, and whatever a learner's code leaves running is ended. On Linux one
worker grades any number of requests, each in a fork; elsewhere each worker grades once and :class:`Workers` keeps a
spare one warm. This protects the grade and the machine from accidents; it is no security boundary.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from blackbelt.dojo.endings import MAX_PROCESSES, crash, limit_words
from blackbelt.dojo.processes import Printed, end_processes, memory_of, scrubbed_environment, with_token
from blackbelt.dojo.slicing import Slice
from blackbelt.dojo.verdict import PASSED, KataReport, failed

SECONDS = 30.0
MEMORY_BYTES = 8 << 30
READY_SECONDS = 180.0
CAN_FORK = sys.platform == "linux"
_POLL_SECONDS = 0.1


class WorkerError(RuntimeError):
    """The grading process itself could not do its work, through no fault of the learner's code."""

    exit_code = 3


class Worker:
    """A process that has torch and the grader loaded, or is loading them.

    Use it as a context manager, or :meth:`close` it.
    """

    def __init__(self, once: bool = not CAN_FORK) -> None:
        self.once = once
        self.usable = True
        self.folder = Path(tempfile.mkdtemp(prefix="blackbelt-"))
        self._secret, self._token = secrets.token_hex(16), secrets.token_hex(8)
        self._number = 0
        self._messages: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._disturbed = False
        self._printed = Printed()
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "blackbelt.dojo.worker", *(["--once"] if once else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env=scrubbed_environment(self.folder, self._token),
            **apart,
        )
        self._readers = [
            threading.Thread(target=self._read_answers, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._printed.read, args=(self.process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._send({"secret": self._secret})

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def grade(
        self, cut: Slice, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES, kata_file: Path | None = None
    ) -> KataReport:
        """Grade a slice within ``seconds`` of wall-clock time, counted from when grading starts.

        ``kata_file`` declares a kata that is not part of the course. Raises :class:`WorkerError` where the process
        cannot grade.
        """
        if not self.usable:
            raise WorkerError("this worker has graded and is spent; start another one")
        self.wait_until_ready()
        self._number += 1
        self._disturbed = False
        self._printed.begin()
        free = psutil.virtual_memory().available * 3 // 4
        memory_bytes = min(memory_bytes, free)
        self._send(
            {
                **cut.to_dict(),
                "number": self._number,
                "once": self.once,
                "seconds": seconds,
                "memory_bytes": memory_bytes,
                "kata_file": str(kata_file) if kata_file else "",
            }
        )
        self.usable = not self.once
        broken = self._watch(seconds, memory_bytes)
        leftovers = self._end_all_but_the_worker()
        return self._conclude(cut, broken, leftovers, seconds, memory_bytes)

    def wait_until_ready(self) -> None:
        """Wait until torch is imported. Raises :class:`WorkerError` where the process ends or hangs instead."""
        if self._wait_for("ready", READY_SECONDS, number=None) is None:
            last = (self._printed.text().strip().splitlines() or ["it said nothing"])[-1]
            self.close()
            raise WorkerError(
                f"the grading process could not start: {last}. Try `{Path(sys.executable).name} -c 'import torch'` in "
                "the same environment; `blackbelt env` shows what is installed."
            )

    def close(self) -> None:
        """End the worker and all it started, and remove its folder."""
        self.usable = False
        self._end_all_but_the_worker(wait=False)
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        for left in with_token(self._token):
            with contextlib.suppress(psutil.Error):
                left.kill()
        for reader in self._readers:
            reader.join(1.0)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # a worker that is gone is noticed where its answer is awaited
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def _read_answers(self, pipe: IO[bytes]) -> None:
        """Take messages behind the secret; anything else was written by code that had no business here."""
        secret = self._secret.encode() + b" "
        for line in pipe:
            message = None
            if line.startswith(secret):
                with contextlib.suppress(ValueError):
                    message = json.loads(line[len(secret) :])
            with self._news:
                if message is not None:
                    self._messages.append(message)
                elif line.strip():
                    self._disturbed = True
                self._news.notify_all()

    def _find(self, event: str, number: int | None) -> dict[str, Any] | None:
        wanted = (m for m in self._messages if m["event"] == event and m.get("number") == number)
        return next(wanted, None)

    def _wait_for(self, event: str, seconds: float, number: int | None) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        with self._news:
            while (found := self._find(event, number)) is None and time.monotonic() < deadline:
                if self.process.poll() is not None and not self._readers[0].is_alive():
                    break
                self._news.wait(0.05)
        return found

    # --- limits -------------------------------------------------------------------------------------------------------

    def _watch(self, seconds: float, memory_bytes: int) -> str:
        """Wait until the verdict is there or the grading process ended; return the limit that was broken, if any."""
        end = "verdict" if self.once else "exited"
        if self._wait_for("started", READY_SECONDS, self._number) is None:
            return ""
        deadline = time.monotonic() + seconds
        at_rest = memory_of(psutil.Process(self.process.pid)) if self.process.poll() is None else 0
        while True:
            if self._wait_for(end, _POLL_SECONDS, self._number) is not None:
                return ""
            if self.process.poll() is not None:
                self._wait_for(end, 0.2, self._number)
                return ""
            if time.monotonic() > deadline:
                return "time"
            descendants = self._learners_processes()
            if len(descendants) > MAX_PROCESSES:
                return "processes"
            if sum(max(0, memory_of(each) - at_rest) for each in descendants) > memory_bytes * 1.25:
                return "memory"

    def _learners_processes(self) -> list[psutil.Process]:
        """Return what grading runs in: descendants of the worker, and the worker itself where it does not fork."""
        with contextlib.suppress(psutil.Error):
            worker = psutil.Process(self.process.pid)
            return [*([worker] if self.once else []), *worker.children(recursive=True)]
        return []

    def _end_all_but_the_worker(self, wait: bool = True) -> bool:
        """End every process that grading started; return whether one was left running by code that had finished."""
        exited = self._find("exited", self._number)
        leftovers = bool(exited and exited["leftovers"])
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = [p for p in self._learners_processes() if p.pid != self.process.pid]
            if self.once:
                left += [p for p in with_token(self._token) if p.pid != self.process.pid and p not in left]
                leftovers |= bool(left)
            end_processes(left)
            gone = not left if self.once else self._find("gone", self._number) is not None
            if gone or not wait or self.process.poll() is not None:
                break
            if not self.once and self._wait_for("gone", 0.02 if left else _POLL_SECONDS, self._number):
                break
        if self.process.poll() is not None:
            self.usable = False
            end_processes(list(with_token(self._token)))
        return leftovers

    # --- verdicts -----------------------------------------------------------------------------------------------------

    def _conclude(self, cut: Slice, broken: str, leftovers: bool, seconds: float, memory_bytes: int) -> KataReport:
        printed = self._printed.text().rstrip() if self.once else self._printed.until(self._number)
        verdict = self._find("verdict", self._number)
        exited = self._find("exited", self._number)
        name = cut.kata
        problem = self._find("problem", self._number)
        if problem:
            raise WorkerError(f"the kata `{name}` cannot be loaded: {problem['words']}")
        if self._disturbed:
            sentence = "the code wrote to a file descriptor that it did not open, the grader's own among them"
            return failed(
                name, "forged", sentence, "Print with `print()`; that is shown to you and never read.", printed
            )
        if broken:
            return failed(name, broken, *limit_words(broken, seconds, memory_bytes), printed)
        if verdict is None:
            status = exited["status"] if exited else self.process.poll()
            if status is None:
                raise WorkerError(f"the grading process gave no answer. It printed: {printed or 'nothing'}")
            return crash(name, cut, status, printed)
        fields = verdict["report"]
        report = KataReport(**{**fields, "printed": printed})
        if leftovers and report.status == PASSED:
            sentence = "the code left a process running"
            return failed(name, "leftovers", sentence, "Wait for every process you start; it has been ended.", printed)
        return report


class Workers:
    """Gives out usable workers, the next one warming up while the current one grades. Use it as a context manager."""

    def __init__(self, once: bool = not CAN_FORK) -> None:
        self._once = once
        self._current = Worker(once)
        self._spare: Worker | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every worker."""
        for worker in (self._current, self._spare):
            if worker is not None:
                worker.close()

    def grade(self, cut: Slice, *, more: bool = True, **limits: Any) -> KataReport:
        """Grade a slice, as :meth:`Worker.grade`; ``more`` says that another request will follow."""
        if not self._current.usable:
            self._current.close()
            self._current, self._spare = self._spare or Worker(self._once), None
        if self._once and more:
            self._spare = Worker(self._once)
        try:
            return self._current.grade(cut, **limits)
        finally:
            if not self._current.usable:
                self._current.close()
