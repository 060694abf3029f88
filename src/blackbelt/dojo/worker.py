"""The process that runs a learner's code: ``python -m blackbelt.dojo.worker``, started by ``dojo.isolation``.

It imports torch and the machinery, says that it is ready, and takes requests on standard input, one JSON object per
line. On Linux every request is graded in a fork of its own, so one import serves many verdicts and each starts from
clean memory. Elsewhere (``--once``) the process grades one request itself and is spent.

What goes back travels on a duplicate of standard output, one line per message, each behind the secret that came first
on standard input; the learner's own standard output and error go to another pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from blackbelt.dojo.endings import CANNOT_ANSWER

_SET_CHILD_SUBREAPER, _SET_PARENT_DEATH_SIGNAL = 36, 1  # linux/prctl.h
_LEFTOVER_GRACE_SECONDS = 0.2
_IDLE_SECONDS = 0.5


class Channel:
    """Where messages go back: one line each, behind the secret."""

    def __init__(self, descriptor: int, secret: str) -> None:
        self._descriptor = descriptor
        self._secret = secret
        self._dumps, self._write = json.dumps, os.write  # taken before any learner code could replace them

    def send(self, **message: Any) -> None:
        """Write one message. Raises OSError where the channel was closed."""
        line = f"\n{self._secret} {self._dumps(message)}\n".encode()
        while line:
            line = line[self._write(self._descriptor, line) :]


def main() -> None:
    """Serve requests until standard input ends."""
    once = "--once" in sys.argv
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    orders = _listen(requests)
    channel = Channel(answers, orders.get()["secret"])
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable()
    if not once:
        prctl(_SET_CHILD_SUBREAPER, 1)
    from blackbelt.dojo import learner_code

    num_threads = learner_code.prepare()
    channel.send(event="ready", pid=os.getpid())
    while True:
        try:
            order = orders.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            learner_code.import_ahead()
            order = orders.get()
        if once:
            channel.send(event="started", number=order["number"], pid=os.getpid())
            learner_code.grade_here(order, channel, num_threads)
            continue  # nothing more will be asked: isolation looks at what is left running, then ends this process
        try:
            _grade_in_a_fork(order, channel, num_threads)
        except BrokenPipeError:  # whoever asked is gone: the thread that reads requests ends everything
            threading.Event().wait()


def prctl(option: int, value: int) -> None:
    """Set a property of this process (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _listen(descriptor: int) -> queue.SimpleQueue[dict[str, Any]]:
    """Read requests in a thread; when the process that asks is gone, end everything that was started for it."""
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        waiting = b""
        while chunk := os.read(descriptor, 1 << 16):
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                orders.put(json.loads(line))
        _abandon()

    threading.Thread(target=read, name="blackbelt-requests", daemon=True).start()
    return orders


def _abandon() -> None:
    import psutil

    for _ in range(20):
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left:
            break
        time.sleep(0.05)
    shutil.rmtree(os.environ["BLACKBELT_WORKER_FOLDER"], ignore_errors=True)
    os._exit(1)


def _grade_in_a_fork(order: dict[str, Any], channel: Channel, num_threads: int) -> None:
    """Grade in a fork; tell when it ended, whether it left processes behind, and when the last of them is gone."""
    from blackbelt.dojo import learner_code

    number = order["number"]
    folder = Path(os.environ["BLACKBELT_WORKER_FOLDER"]) / f"grade-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    guard = learner_code.import_kata(order)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork beside threads; ours waits in a read
        child = os.fork()
    if child == 0:
        try:
            _become_grader(folder)
            channel.send(event="started", number=number, pid=os.getpid())
            learner_code.grade_here(order, channel, num_threads, guard)
        finally:
            os._exit(CANNOT_ANSWER)
    status, leftovers = _wait_for(child)
    channel.send(event="exited", number=number, status=status, leftovers=leftovers)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    shutil.rmtree(folder, ignore_errors=True)
    os.write(2, f"\0{number}\0".encode())  # all that was printed stands before this mark
    channel.send(event="gone", number=number)


def _become_grader(folder: Path) -> None:
    prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.setsid()
    os.chdir(folder)


def _wait_for(child: int) -> tuple[int, bool]:
    """Wait until the grading process ends; return its exit status and whether it left others running."""
    code: int | None = None
    deadline = float("inf")
    while True:
        try:
            pid, status = os.waitpid(-1, 0 if code is None else os.WNOHANG)
        except ChildProcessError:
            assert code is not None
            return code, False
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            deadline = time.monotonic() + _LEFTOVER_GRACE_SECONDS
        elif pid == 0:
            if time.monotonic() > deadline:
                assert code is not None
                return code, True
            time.sleep(0.01)


if __name__ == "__main__":
    main()
