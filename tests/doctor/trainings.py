"""Run a training script as it stands, with and without the doctor, and keep everything that can be compared."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import runpy
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from blackbelt.doctor import DoctorReport, watch
from blackbelt.doctor.places import observe_folders

CAUSE = re.compile(r"#\s*cause:\s*(BB\d+)")


@dataclass(frozen=True)
class Training:
    """What a script printed, what it left behind (a hash of every tensor and generator), and what the doctor said."""

    printed: str
    left_behind: str
    report: DoctorReport | None


def train(path: Path, *, doctor: bool) -> Training:
    """Run a script as ``__main__`` from fixed seeds: in this process, or apart where it starts ranks of its own."""
    if "torch.multiprocessing" in path.read_text(encoding="utf-8"):
        from tests.doctor.apart import train_apart

        return train_apart(path, doctor=doctor)
    return train_here(path, io.StringIO(), doctor=doctor)


def train_here(path: Path, printed: TextIO, *, doctor: bool) -> Training:
    """Run a script as ``__main__`` in this process, from fixed seeds; what it prints goes to ``printed``."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    observe_folders([path.parent])
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # tensors this small are slower on two
        stack.callback(setattr, sys, "argv", sys.argv)
        sys.argv = [str(path)]
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # a practitioner does not read them either
        observation = stack.enter_context(watch()) if doctor else None
        names = runpy.run_path(str(path), run_name="__main__")
    report = observation.report if observation else None
    words = printed.getvalue() if isinstance(printed, io.StringIO) else ""
    return Training(words, _hash_of(names), report)


def causes(path: Path) -> list[tuple[str, int]]:
    """Return the lines that the script itself marks with ``# cause: BB301``, with their codes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(match[1], number) for number, line in enumerate(lines, 1) if (match := CAUSE.search(line))]


def found(report: DoctorReport) -> list[tuple[str, int]]:
    """Return the codes and lines of the findings."""
    return [(finding.code, finding.place.line if finding.place else 0) for finding in report.findings]


def _hash_of(names: dict[str, object]) -> str:
    digest = hashlib.sha256()
    for name in sorted(names):
        if not name.startswith("__"):
            for piece in _pieces(names[name]):
                digest.update(piece)
    for state in (torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()):
        digest.update(repr(state).encode())
    return digest.hexdigest()


def _pieces(value: object) -> Iterator[bytes]:
    if isinstance(value, torch.Tensor):
        yield value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, (torch.nn.Module, torch.optim.Optimizer)):
        yield from _pieces(value.state_dict())
    elif isinstance(value, dict):
        yield from _pieces(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, str) and value.startswith(tempfile.gettempdir()):
        yield b""  # a name drawn anew in every run
    elif isinstance(value, (int, float, str)):
        yield repr(value).encode()
