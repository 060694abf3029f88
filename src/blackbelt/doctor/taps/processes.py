"""Processes that the script starts itself, with ``torch.multiprocessing.spawn`` or ``Process``: ranks, mostly.

Their function is wrapped, so that a child observes itself and writes its report into a folder of the parent's, which
tells of all. Workers of data loaders, pools and managers are left alone: their functions are a library's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from blackbelt.doctor import places
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.ranks import Ranks, read_reports
from blackbelt.doctor.run import Run

SPAWNED = ("torch.multiprocessing.spawn", "_wrap")  # which calls the user's function


def install(run: Run, patches: Patches, stack: ExitStack) -> None:
    """Wrap the function of every process that runs the user's code."""
    number = 0

    def start(original: Any, self: Any) -> None:
        nonlocal number
        if not run.hears or not _is_users(self):
            original(self)
            return
        if run.folder is None:
            run.folder = Path(tempfile.mkdtemp(prefix="blackbelt-", dir=run.ranks.folder if run.ranks else None))
            stack.callback(_collect, run, os.getpid())
        observed = _Observed(self, str(run.folder), number, run.settings(), places.roots())
        number += 1
        target = self._target
        if _overrides_run(self):
            self.run = observed
        else:
            self._target = observed
        try:
            original(self)
        finally:  # the object looks as it would without: `start` itself forgets the function
            vars(self).pop("run", None)
            if "_target" in vars(self):
                self._target = target

    patches.replace(BaseProcess, "start", start)


def _collect(run: Run, owner: int) -> None:
    if run.folder is not None and os.getpid() == owner:  # not in a child that was forked and has left the block
        run.children = read_reports(run.folder)
        shutil.rmtree(run.folder, ignore_errors=True)
        run.folder = None


def _overrides_run(process: Any) -> bool:
    return type(process).run is not BaseProcess.run


def _is_users(process: Any) -> bool:
    """Return whether what a process will run is the user's."""
    function = type(process).run if _overrides_run(process) else process._target  # noqa: SLF001 - what is to be wrapped
    if (getattr(function, "__module__", ""), getattr(function, "__name__", "")) == SPAWNED:
        function = process._args[0]  # noqa: SLF001 - likewise
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is not None and places.is_users(code.co_filename)


class _Observed:
    """Stands for the function of a process: goes to the child, and observes there what the function does."""

    def __init__(self, process: Any, folder: str, index: int, settings: dict[str, Any], roots: tuple[str, ...]) -> None:
        self.process = process if _overrides_run(process) else None
        self.target = None if self.process is not None else process._target  # noqa: SLF001 - what is to be wrapped
        self.folder, self.index, self.settings, self.roots = folder, index, settings, roots
        self.parent = os.getpid()
        self.is_redirected = sys.stdout is sys.stderr

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(self.target, *args, **kwargs) if self.target else self._run
        if os.getpid() == self.parent:
            return call()
        from blackbelt.doctor.observing import watch
        from blackbelt.doctor.rule import all_rules
        from blackbelt.doctor.taps import leave_parents

        leave_parents()
        places.observe_folders(map(Path, self.roots))
        ranks = Ranks(Path(self.folder), self.index)
        said = self.settings["on_finding"]
        with contextlib.ExitStack() as stack:
            if self.is_redirected:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            observation = stack.enter_context(
                watch(
                    [rule for code, rule in all_rules().items() if code in self.settings["codes"]],
                    getattr(importlib.import_module(said[0]), said[1]) if said else None,
                    max_steps=self.settings["max_steps"],
                    until_sure=self.settings["until_sure"],
                    ranks=ranks,
                )
            )
            leave, child = os._exit, os.getpid()

            def write_and_leave(status: int) -> NoReturn:
                if os.getpid() == child:
                    ranks.write(observation.report, ended=True)
                leave(status)

            os._exit = write_and_leave
            stack.callback(setattr, os, "_exit", leave)
            return call()

    def _run(self) -> Any:
        process: Any = self.process
        return type(process).run(process)
