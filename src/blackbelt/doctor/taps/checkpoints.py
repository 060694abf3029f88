"""What is saved, loaded, and put into modules and optimizers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from blackbelt.doctor.events import File, StateLoaded, StateTaken
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, _: ExitStack) -> None:
    """Listen to ``state_dict``, ``load_state_dict``, ``torch.save`` and ``torch.load``."""

    def load_state(original: Any, self: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, state, *args, **kwargs)
        if run.hears:
            strict = bool(args[0] if args else kwargs.get("strict", True))
            run.emit("state_loaded", StateLoaded(self, state, result, strict))
        return result

    def take_state(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(self, *args, **kwargs)
        if run.hears and not args and kwargs.get("destination") is None:  # a submodule is given where to write
            run.emit("state_taken", StateTaken(self, state))
        return state

    if run.listens("state_taken"):
        patches.replace(torch.nn.Module, "state_dict", take_state)
    if run.listens("state_loaded"):
        own = [kind for kind in vars(lr_scheduler).values() if isinstance(kind, type) and issubclass(kind, LRScheduler)]
        for kind in (torch.nn.Module, torch.optim.Optimizer, GradScaler, *dict.fromkeys([LRScheduler, *own])):
            if "load_state_dict" in vars(kind):
                patches.replace(kind, "load_state_dict", load_state)
    _listen_to_files(run, patches)


def _listen_to_files(run: Run, patches: Patches) -> None:
    def save(original: Any, content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        original(content, file, *args, **kwargs)
        if run.hears:
            run.emit("file_saved", File(content, str(file)))

    def load(original: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
        content = original(file, *args, **kwargs)
        if run.hears:
            run.emit("file_loaded", File(content, str(file)))
        return content

    if run.listens("file_saved"):
        patches.replace(torch, "save", save)
    if run.listens("file_loaded"):
        patches.replace(torch, "load", load)
