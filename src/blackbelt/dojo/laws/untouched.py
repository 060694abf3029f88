"""What every solution must leave alone: its inputs and the state of the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, tensors_in


@dataclass(frozen=True)
class LeavesInputs(Law):
    """Arguments keep values, shapes, strides, flags and gradients, but for those the kata names as changed in place."""

    why: ClassVar[str] = "The caller still uses what it passed; a change behind its back is found hours later."

    def check(self, trial: Trial) -> None:
        slots = zip(trial.slots(trial.case.arguments), trial.slots(trial.arguments))
        for (index, name, before), (_, _, after) in slots:
            if index in trial.kata.changes:
                continue
            befores, afters = list(tensors_in(before)), list(tensors_in(after))
            same = len(befores) == len(afters) and all(_same(old, new) for old, new in zip(befores, afters))
            if not same or (not befores and _differs(before, after)):
                raise LawBroken(f"It changed its {name}", describe(before), describe(after))


@dataclass(frozen=True)
class LeavesState(Law):
    """The random number generators, default dtype and device, grad mode and thread count stay as they were."""

    why: ClassVar[str] = "A library function that changes global state changes every program that calls it."

    def check(self, trial: Trial) -> None:
        if trial.outcome.changed_state:
            names = ", ".join(trial.outcome.changed_state)
            raise LawBroken(f"It changed global state: {names}", "global state left alone", f"changed: {names}")


def _same(before: torch.Tensor, after: torch.Tensor) -> bool:
    if before.layout is not torch.strided or before.device.type == "meta":
        return before.shape == after.shape
    return (
        before.shape == after.shape
        and before.stride() == after.stride()
        and before.dtype == after.dtype
        and before.requires_grad == after.requires_grad
        and (before.grad is None) == (after.grad is None)
        and bool(((before == after) | (before.isnan() & after.isnan())).all())
    )


def _differs(before: Any, after: Any) -> bool:
    plain = (int, float, str, bool, list, tuple, dict)
    return isinstance(before, plain) and bool(before != after)
