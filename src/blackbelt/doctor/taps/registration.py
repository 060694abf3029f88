"""Parameters and modules that become attributes of modules, through the global hooks of ``torch.nn``."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from blackbelt.doctor.events import Registered
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, _: Patches, stack: ExitStack) -> None:
    """Listen to assignments such as ``self.head.weight = self.embed.weight``, and to ``register_parameter``."""
    if not run.listens("registered"):
        return

    def parameter(owner: nn.Module, name: str, thing: Any) -> None:
        if run.hears:
            run.emit("registered", Registered(owner, name, thing, owner._parameters.get(name)))  # noqa: SLF001 - has no public name

    def module(owner: nn.Module, name: str, thing: Any) -> None:
        if run.hears and isinstance(thing, nn.Module):
            run.emit("registered", Registered(owner, name, thing, owner._modules.get(name)))  # noqa: SLF001 - likewise

    stack.callback(hooks.register_module_parameter_registration_hook(parameter).remove)
    stack.callback(hooks.register_module_module_registration_hook(module).remove)
