"""Calls of ``backward``: that of a tensor comes through ``torch.autograd.backward`` as well."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from blackbelt.doctor.events import Backward
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Tell of every backward before and after."""

    def backward(original: Any, tensors: Any, *args: Any, **kwargs: Any) -> None:
        if not run.hears:
            original(tensors, *args, **kwargs)
            return
        run.num_backwards += 1
        roots = [tensors] if isinstance(tensors, Tensor) else [t for t in tensors if isinstance(t, Tensor)]
        call = Backward(roots, run.num_backwards)
        run.emit("backward_begins", call)
        with run.quiet():
            original(tensors, *args, **kwargs)
        run.emit("backward_ends", call)

    patches.replace(torch.autograd, "backward", backward)
