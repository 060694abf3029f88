"""BB412."""

from __future__ import annotations

import weakref
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from blackbelt.doctor.events import FunctionCall, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 2  # steps in a row
SETTING = torch.Tensor.requires_grad.__set__  # type: ignore[attr-defined]  # what `p.requires_grad = …` calls


class LeftFrozen(Rule):
    """`requires_grad` is switched off for the other part's turn and never on again, so an optimizer steps with nothing.

    While a generator learns, the discriminator is frozen, and the other way round. If the switch back is missing, or
    names the wrong part, a part trains for one turn and never again. The other part's loss looks better and better.

    Observed: an optimizer steps while none of its parameters requires a gradient, though it has stepped before with
    parameters that did; twice in a row.

    Not reported: some parameters that are frozen during training, as in a fine-tuning by stages; parts that were
    frozen from the start; optimizers that do not step while their part is frozen.

    The fix: `part.requires_grad_(True)` before its turn, or no switching at all: `.detach()` what comes from the
    generator in the discriminator's turn, and clear the discriminator's gradients before its own. Reported where
    `requires_grad` was switched off.
    """

    code: ClassVar[str] = "BB412"
    title: ClassVar[str] = "parameters are left without requires_grad"
    explains: ClassVar[tuple[str, ...]] = ("BB207", "BB307", "BB308", "BB405", "BB404")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._trained: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # that stepped with parameters that require one
        self._times: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._places: dict[int, tuple[weakref.ref[Tensor], Place | None]] = {}  # where it was switched off last

    def function_called(self, call: FunctionCall) -> Findings:
        if (
            (call.name == "requires_grad_" or call.function == SETTING)
            and call.args
            and isinstance(call.args[0], Tensor)
        ):
            tensor = call.args[0]
            if tensor.is_leaf and not tensor.requires_grad:
                self._places[id(tensor)] = (weakref.ref(tensor), call.place)
        return ()

    def step_begins(self, step: Step) -> Findings:
        if any(p.requires_grad for group in step.optimizer.param_groups for p in group["params"]):
            self._trained.add(step.optimizer)
            self._times.pop(step.optimizer, None)
            return
        if step.optimizer not in self._trained:
            return
        times = self._times[step.optimizer] = self._times.get(step.optimizer, 0) + 1
        if times != CONFIRMED:
            return
        parameters = step.parameters
        made, place = self._places.get(id(parameters[0]), (None, None))
        known = made is not None and made() is parameters[0]
        kind = type(step.optimizer).__name__
        yield self.finding(
            f"{kind} steps, and none of its {len(parameters)} parameters ({self.run.name_of(parameters[0])}, …) "
            f"requires a gradient any more",
            place if known else self.run.made_at(step.optimizer),
            fix="….requires_grad_(True)  # before this part's turn",
            evidence={"step of this optimizer": step.number, "parameters that require a gradient": 0},
        )
