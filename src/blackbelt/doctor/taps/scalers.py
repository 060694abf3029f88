"""Gradient scalers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch.amp.grad_scaler import GradScaler

from blackbelt.doctor.events import ScalerCall
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Tell of the four calls that a step with a scaler is made of."""
    if not run.listens("scaler_called"):
        return
    for name in ("scale", "unscale_", "step", "update"):

        def call(original: Any, self: Any, *args: Any, _name: str = name, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            if run.hears:
                run.emit("scaler_called", ScalerCall(self, _name, args))
            return result

        patches.replace(GradScaler, name, call)
