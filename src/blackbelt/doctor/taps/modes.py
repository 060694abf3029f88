"""Switches of modules to training and to evaluation mode."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

from blackbelt.doctor.events import ModeSet
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Tell of ``train`` and ``eval``, once for a whole tree of modules."""
    if not run.listens("mode_set"):
        return
    within = False

    def train(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal within
        if within or not run.hears:
            return original(self, *args, **kwargs)
        within = True
        try:
            result = original(self, *args, **kwargs)
        finally:
            within = False
        run.emit("mode_set", ModeSet(self, bool(args[0] if args else kwargs.get("mode", True))))
        return result

    patches.replace(nn.Module, "train", train)
