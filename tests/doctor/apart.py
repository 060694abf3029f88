"""Trainings of several ranks, run in a process that has loaded PyTorch and trained nothing yet, where ranks are forked.

Forking where autograd has threads, as a test process may have them, fails; a new interpreter per rank takes seconds.
So one process per test process waits for names of scripts, and forks for each.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.doctor.trainings import Training, train_here

ROOT = Path(__file__).parents[2]
LIMIT = 60.0  # seconds for one training


def train_apart(path: Path, *, doctor: bool) -> Training:
    """Run a script; lines printed are sorted, as ranks print in no particular order."""
    with tempfile.TemporaryDirectory() as folder:
        server = _server()
        server.stdin.write(json.dumps({"path": str(path), "doctor": doctor, "folder": folder}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline().strip()
        assert answer == "done", f"{path}: {answer or 'the process for trainings of several ranks has died'}"
        outcome = pickle.loads((Path(folder) / "outcome").read_bytes())
        assert isinstance(outcome, Training), f"{path}: {outcome}"
        lines = sorted((Path(folder) / "printed").read_text(encoding="utf-8").splitlines())
        return Training("\n".join(lines), outcome.left_behind, outcome.report)


@functools.cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.doctor.apart"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    atexit.register(_stop, server)
    return server


def _stop(server: subprocess.Popen[str]) -> None:
    server.stdin.close()
    server.wait(10)
    server.stdout.close()


def _serve() -> None:
    importlib.import_module("torch._dynamo")  # seconds, which DistributedDataParallel would spend in every rank
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _train(Path(request["path"]), Path(request["folder"]), doctor=request["doctor"])
        began = time.monotonic()
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - began > LIMIT:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.005)
        else:
            _answer("done")
            continue
        _answer(f"took more than {LIMIT:.0f} s")


def _answer(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def _train(path: Path, folder: Path, *, doctor: bool) -> None:
    os.setpgid(0, 0)
    try:
        with (folder / "printed").open("w", encoding="utf-8", buffering=1) as printed:
            os.dup2(printed.fileno(), 1)
            outcome: object = train_here(path, printed, doctor=doctor)
    except BaseException:
        outcome = traceback.format_exc()
    (folder / "outcome").write_bytes(pickle.dumps(outcome))
    os._exit(0)


if __name__ == "__main__":
    _serve()
