"""Segments that the reentrant variant of ``torch.utils.checkpoint`` runs without a graph."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointFunction

from blackbelt.doctor.events import Segment
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Listen to the forward pass of segments; by whatever name ``checkpoint`` was imported, it comes through here."""
    if not run.listens("segment_ends"):
        return

    def apply(original: Any, function: Any, preserve_rng_state: Any, *args: Any) -> Any:
        if not run.hears:
            return original(function, preserve_rng_state, *args)
        call = Segment(function, args, torch.is_grad_enabled())
        run.emit("segment_begins", call)
        call.output = original(function, preserve_rng_state, *args)
        run.emit("segment_ends", call)
        return call.output

    patches.replace(CheckpointFunction, "apply", apply)
