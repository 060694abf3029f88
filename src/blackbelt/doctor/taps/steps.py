"""Steps of optimizers and of schedulers, and the clearing of gradients."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any

from torch import nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from blackbelt.doctor.events import Cleared, ScheduleStep, Step, head
from blackbelt.doctor.patching import Patches
from blackbelt.doctor.run import Run


def install(run: Run, patches: Patches, stack: ExitStack) -> None:
    """Listen through the global hooks of optimizers; these run around the step of every subclass."""
    numbers: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
    running: dict[int, Step] = {}

    def before(optimizer: Optimizer, *_: Any) -> None:
        if not run.hears:
            return
        run.stepping(optimizer)
        numbers[optimizer] = numbers.get(optimizer, 0) + 1
        step = running[id(optimizer)] = Step(optimizer, numbers[optimizer])
        if run.traced and (run.listens("step_ends") or run.listens("step_begins")):
            step.before = {id(p): head(p).clone() for p in step.parameters}
        run.emit("step_begins", step)

    def after(optimizer: Optimizer, *_: Any) -> None:
        step = running.pop(id(optimizer), None)
        if step is None or not run.hears:
            return
        run.num_steps += 1
        run.num_backwards = 0
        run.emit("step_ends", step)
        if run.num_steps == run.traced_until:
            run.settle()
        run.end_if_enough()

    stack.callback(register_optimizer_step_pre_hook(before).remove)
    stack.callback(register_optimizer_step_post_hook(after).remove)
    if run.listens("gradients_cleared"):
        _listen_to_clearing(run, patches)
    if run.listens("schedule_stepped"):
        _listen_to_schedules(run, patches)


def _listen_to_clearing(run: Run, patches: Patches) -> None:
    def clear(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        if not run.hears:
            original(self, *args, **kwargs)
            return
        parameters = (
            list(self.parameters())
            if isinstance(self, nn.Module)
            else [p for group in self.param_groups for p in group["params"]]
        )
        had_gradients = any(p.grad is not None for p in parameters)
        original(self, *args, **kwargs)
        run.emit("gradients_cleared", Cleared(self, parameters, had_gradients))

    patches.replace(Optimizer, "zero_grad", clear)
    patches.replace(nn.Module, "zero_grad", clear)


def _listen_to_schedules(run: Run, patches: Patches) -> None:
    def schedule(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if run.hears:
            rates = [float(group["lr"]) for group in self.optimizer.param_groups]
            run.emit("schedule_stepped", ScheduleStep(self, rates))

    for kind in vars(lr_scheduler).values():
        if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler) and "step" in vars(kind):
            patches.replace(kind, "step", schedule)
