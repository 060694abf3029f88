"""Clipping of gradients."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad

from blackbelt.doctor.events import Clipped
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Tell of ``clip_grad_norm_`` and ``clip_grad_value_``, by either of their two names."""
    if not run.listens("clipped"):
        return

    for name in ("clip_grad_norm_", "clip_grad_value_"):

        def clip(original: Any, parameters: Any, limit: float, *args: Any, _name: str = name, **kwargs: Any) -> Any:
            if not run.hears:
                return original(parameters, limit, *args, **kwargs)
            listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            norm = original(listed, limit, *args, **kwargs)
            run.emit("clipped", Clipped(_name, listed, float(limit), norm))
            return norm

        patches.replace(clip_grad, name, clip)
        patches.replace(torch.nn.utils, name, clip)
