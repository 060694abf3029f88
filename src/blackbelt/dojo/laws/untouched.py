"""What every solution must leave alone: its inputs and the state of the process."""

from __future__ import annotations

from collections.abc import Sequence
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
            changed = _changed(befores, afters)
            if changed or (not befores and _differs(before, after)):
                what = f" ({changed})" if changed else ""
                raise LawBroken(f"It changed its {name}{what}", describe(before), describe(after))


@dataclass(frozen=True)
class LeavesState(Law):
    """The random number generators, default dtype and device, grad mode and thread count stay as they were."""

    why: ClassVar[str] = "A library function that changes global state changes every program that calls it."

    def check(self, trial: Trial) -> None:
        if trial.outcome.changed_state:
            names = ", ".join(trial.outcome.changed_state)
            raise LawBroken(f"It changed global state: {names}", "global state left alone", f"changed: {names}")


def _changed(befores: Sequence[torch.Tensor], afters: Sequence[torch.Tensor]) -> str:
    """Return what differs between the tensors of an argument before and after, "" where nothing does."""
    if len(befores) != len(afters):
        return "the number of tensors in it"
    return next((found for pair in zip(befores, afters) if (found := _difference(*pair))), "")


def _difference(before: torch.Tensor, after: torch.Tensor) -> str:
    if before.shape != after.shape:
        return "the shape"
    if before.layout is not torch.strided or before.device.type == "meta":
        return ""
    for name in ("stride", "dtype", "requires_grad"):
        old, new = getattr(before, name), getattr(after, name)
        if (old() != new()) if callable(old) else (old != new):
            return f"`{name}`"
    if (before.grad is None) != (after.grad is None):
        return "`.grad`"
    if before.grad is not None and after.grad is not None and not _equal(before.grad, after.grad):
        return "`.grad`"
    return "" if _equal(before, after) else "values"


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _differs(before: Any, after: Any) -> bool:
    plain = (int, float, str, bool, list, tuple, dict)
    return isinstance(before, plain) and bool(before != after)
