"""BB414."""

from __future__ import annotations

import inspect
import linecache
import weakref
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from blackbelt.doctor.events import Step, head
from blackbelt.doctor.places import is_users
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

ROUNDED_AWAY = 16  # times the rounding of the parameter: a smaller update may vanish
STEPS = 3  # in a row; an optimizer that keeps state may gather gradients for a while:
STEPS_WITH_STATE = 12


class Unchanged(Rule):
    """A step leaves parameters bit for bit as they were, though their gradient and the learning rate are not 0.

    The optimizer computed an update and wrote it somewhere else: into a copy made by `.float()`, `.contiguous()` or
    `.reshape()`, or into a local name (`p = p - lr * g`). PyTorch before 2.4 did so itself on Apple devices, for
    parameters that are not contiguous. The layer stays as it was initialized, and the others learn around it.

    Observed: the first 1024 elements of a parameter before and after the step of its optimizer are bitwise the same,
    while for some of them the learning rate times the gradient is more than 16 times the rounding of the parameter; 3
    steps in a row, 12 where the optimizer keeps state for the parameter.

    Not reported: a learning rate or a gradient of 0; updates that rounding swallows (low precision); LBFGS, which
    stops where it has converged; optimizers that gather several gradients before they move.

    The fix: write in place, under `no_grad`: `p.add_(update, alpha=-lr)`. Reported at the `step` of a class of yours,
    otherwise where `step` is called.
    """

    code: ClassVar[str] = "BB414"
    title: ClassVar[str] = "a step leaves parameters as they were"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._expected: set[int] = set()  # parameters that the step that runs must move
        self._times: weakref.WeakKeyDictionary[Optimizer, dict[int, int]] = weakref.WeakKeyDictionary()

    def step_begins(self, step: Step) -> Findings:
        self._expected = set()
        if step.before and not isinstance(step.optimizer, LBFGS):
            for group in step.optimizer.param_groups:
                rate = float(group.get("lr", 0))
                self._expected |= {id(p) for p in group["params"] if _must_move(p, rate)}
        return ()

    def step_ends(self, step: Step) -> Findings:
        if not step.before or not self._expected:
            return
        times = self._times.setdefault(step.optimizer, {})
        stuck = []
        for parameter in step.parameters:
            same = step.unchanged(parameter)
            still = id(parameter) in self._expected and same is not None and bool(same.all())
            times[id(parameter)] = times.get(id(parameter), 0) + 1 if still else 0
            needed = STEPS_WITH_STATE if step.optimizer.state.get(parameter) else STEPS
            if times[id(parameter)] == needed:
                stuck.append(parameter)
        if not stuck:
            return
        kind = type(step.optimizer).__name__
        gradient = stuck[0].grad
        yield self.finding(
            f"{times[id(stuck[0])]} steps of {kind} left {self.run.name_of(stuck[0])} bit for bit as it was, though "
            f"its gradient and the learning rate are not 0",
            _definition(step.optimizer) or step.place,
            fix="with torch.no_grad():\n    p.add_(update, alpha=-lr)  # in place, on the parameter itself",
            evidence={
                "parameters that did not move": f"{len(stuck)} of {len(step.parameters)}",
                "largest gradient": f"{float(gradient.abs().max()):.3g}" if gradient is not None else "none",
                "learning rate": f"{float(step.optimizer.param_groups[0]['lr']):g}",
            },
        )


def _must_move(parameter: Tensor, rate: float) -> bool:
    grad = parameter.grad
    if grad is None or grad.is_sparse or not rate or not parameter.requires_grad or not parameter.is_floating_point():
        return False
    values = head(parameter)
    ulp = values.abs().clamp(min=torch.finfo(values.dtype).tiny) * torch.finfo(values.dtype).eps
    return bool((rate * head(grad).abs().clamp(max=1) > ROUNDED_AWAY * ulp).any())


def _definition(optimizer: Optimizer) -> Place | None:
    """Return the line that defines ``step``, where that is the user's."""
    step = inspect.unwrap(type(optimizer).step)
    code = step.__code__
    if not is_users(code.co_filename):
        return None
    line = code.co_firstlineno  # that of a decorator, where there is one
    while linecache.getline(code.co_filename, line).lstrip().startswith("@"):
        line += 1
    return Place(code.co_filename, line, step.__qualname__)
