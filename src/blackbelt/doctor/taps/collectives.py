"""Collectives of ``torch.distributed`` that Python calls."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from blackbelt.doctor.events import Collective, tensors_in
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run

NAMES = ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce", "all_reduce_coalesced")


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Listen where a rule does, and PyTorch has been built with them."""
    if not run.listens("collective_called") or not torch.distributed.is_available():
        return
    for name in NAMES:

        def call(original: Any, *args: Any, _name: str = name, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if run.hears:
                run.emit("collective_called", Collective(_name, list(tensors_in([args, kwargs]))))
            return result

        patches.replace(torch.distributed, name, call)

    def no_sync(original: Any, self: Any) -> Any:
        context = original(self)
        if run.hears:
            run.emit("collective_called", Collective("no_sync", (), self))
        return context

    patches.replace(DistributedDataParallel, "no_sync", no_sync)
