"""The taps: where PyTorch is listened to. One file each; every one has ``install(run, patches)``.

A tap is put in only where a rule listens to what it hears. It calls the original first, hands its result on
untouched, and tells the run what happened.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator

from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run
from blackbelt.doctor.taps import (
    backward,
    checkpoints,
    clipping,
    creation,
    functions,
    loaders,
    modes,
    modules,
    scalers,
    steps,
    workers,
)

TAPS = (creation, modules, modes, functions, backward, clipping, scalers, steps, workers, loaders, checkpoints)
_runs: weakref.WeakSet[Run] = weakref.WeakSet()


@contextlib.contextmanager
def tapped(run: Run) -> Iterator[None]:
    """Observe this process, this thread, for ``run``."""
    patches = Patches()
    with contextlib.ExitStack() as stack:
        stack.callback(patches.undo)
        for tap in TAPS:
            tap.install(run, patches, stack)
        _runs.add(run)
        run.start()
        try:
            yield
        finally:
            run.stop()


def _forget() -> None:
    for run in list(_runs):
        run.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
