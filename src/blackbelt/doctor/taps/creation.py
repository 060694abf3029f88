"""Where modules, parameters, optimizers, schedulers, data loaders and parts of data sets are made."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Subset, TensorDataset

from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Listen to the constructors of the base classes, which every subclass calls."""

    def initialized(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if run.hears:
            if isinstance(self, torch.optim.Optimizer):
                run.trace_anew()
            run.made(self)

    for base in (torch.nn.Module, torch.optim.Optimizer, LRScheduler, DataLoader, Subset, TensorDataset):
        patches.replace(base, "__init__", initialized)

    def new(original: Any, cls: Any, *args: Any, **kwargs: Any) -> Any:
        parameter = original(cls, *args, **kwargs)
        if run.hears:
            run.made(parameter)
        return parameter

    patches.replace(torch.nn.Parameter, "__new__", new)
