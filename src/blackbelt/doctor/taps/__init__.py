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
    collectives,
    creation,
    fetches,
    functions,
    loaders,
    modes,
    modules,
    processes,
    registration,
    scalers,
    segments,
    steps,
    workers,
)

TAPS = (
    creation,
    registration,
    modules,
    modes,
    functions,
    backward,
    segments,
    clipping,
    scalers,
    steps,
    workers,
    fetches,
    loaders,
    checkpoints,
    collectives,
    processes,
)
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
        except BaseException:
            run.is_cut = True
            raise
        finally:
            run.stop()


def _forget() -> None:
    for run in list(_runs):
        run.forget()


def leave_parents() -> None:
    """In a forked child that will be observed itself: take the parent's taps out, which hear nothing any more."""
    for run in list(_runs):
        run.notes = None
        for switch in run.switches:
            switch()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
