"""Trainings of several ranks that ``torchrun`` starts: by the doctor's own command, or around it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from blackbelt.doctor.ranks import FOLDER, Ranks, merged, read_reports, terminated, wait_for_others
from blackbelt.doctor.report import DoctorReport

LAUNCHERS = ("torch.distributed.run", "torch.distributed.launch")
ATTEMPTS = 20  # to remove the folder
GRACE = 30.0  # seconds in which the launcher may end its ranks after Ctrl-C, as many as it gives them itself


def is_launcher(target: str, *, as_module: bool) -> bool:
    """Return whether a script, or a module, is the one that starts ranks.

    >>> is_launcher("torch.distributed.run", as_module=True), is_launcher("train.py", as_module=False)
    (True, False)
    """
    return target in LAUNCHERS if as_module else Path(target).name == "torchrun"


def observed_arguments(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return torchrun's arguments with the doctor, and its ``options``, put before the training script.

    Raises ValueError for ``--no-python``, whose program the doctor cannot run. Arguments that torchrun does not know
    raise a SystemExit with its own message.

    >>> observed_arguments(["--nproc-per-node", "2", "train.py", "--lr", "1"], ["--notes"])
    ['--nproc-per-node', '2', '-m', 'blackbelt', 'doctor', '--notes', 'train.py', '--lr', '1']
    """
    from torch.distributed.run import get_args_parser

    given = [argument for argument in arguments if argument not in ("--use-env", "--use_env")]  # which is the default
    parsed = get_args_parser().parse_args(given)
    if parsed.no_python:
        raise ValueError("--no-python starts a program that is no Python script, and the doctor observes only these")
    end = len(given) - 1 - len(parsed.training_script_args)
    before = [argument for argument in given[:end] if argument not in ("-m", "--module")]
    module = ["-m"] if parsed.module else []
    script = [parsed.training_script, *parsed.training_script_args]
    return [*before, "-m", "blackbelt", "doctor", *options, *module, *script]


def launch(arguments: Sequence[str], output: Any = None) -> tuple[DoctorReport, BaseException | None]:
    """Run torchrun with these arguments; return the report of all ranks, and what went wrong.

    ``output`` is where the ranks' standard output goes, this process's own where None.
    """
    error: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="blackbelt-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "torch.distributed.run", *arguments]
        with subprocess.Popen(command, env={**os.environ, FOLDER: folder}, stdout=output) as process:
            try:
                status = process.wait()
            except KeyboardInterrupt as stop:
                error, status = stop, _end(process)
        report = merged(DoctorReport((), 0), read_reports(Path(folder)))
    if status and error is None:
        error = SystemExit(status)
    return report, error


def _end(process: subprocess.Popen[bytes]) -> int:
    """Wait until the launcher, which has heard the Ctrl-C or is told of it now, has ended. A second one kills it."""
    try:
        return process.wait(1)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        return process.wait()


def report_of_all(
    ranks: Ranks, speaks: bool, report: DoctorReport, error: BaseException | None
) -> tuple[DoctorReport, BaseException | None]:
    """Write down how this rank ended; where it is the one that ``speaks``, wait for the others and return what all say.

    The folder is gone afterwards. A rank whose script failed, or that died, makes the whole fail.
    """
    ranks.error = "" if error is None else type(error).__name__
    ranks.write(report, ended=True)
    if not speaks:
        return report, error
    found = wait_for_others(ranks)
    for _ in range(ATTEMPTS):  # another rank may be writing its last words
        shutil.rmtree(ranks.folder, ignore_errors=True)
        if not ranks.folder.exists():
            break
        time.sleep(0.1)
    if error is None and any(rank.error or not rank.ended for rank in found):
        error = SystemExit(1)
    return merged(DoctorReport((), 0), found or []), error


@contextlib.contextmanager
def ending_when_terminated() -> Iterator[None]:
    """Let torchrun's SIGTERM, sent when another rank has failed, end the script inside, so that the report is told.

    Afterwards, while the report is put together and printed, it ends nothing any more.
    """
    runs = True

    def leave(number: int, _: FrameType | None) -> None:
        terminated.set()
        if runs:
            raise SystemExit(128 + number)

    is_ours = threading.current_thread() is threading.main_thread()
    if is_ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        runs = False
