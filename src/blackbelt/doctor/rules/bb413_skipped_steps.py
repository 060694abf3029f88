"""BB413."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch

from blackbelt.doctor.events import ModuleCall, ScalerCall, Step, tensors_in
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run

NOT_A_NUMBER = 4  # skipped steps in a row with a gradient that is no number
NO_OVERFLOW = 2.0**40  # a scale at which float32 and bfloat16 do not overflow, whose infinities could become NaN
INFINITE = 24  # in a row with an infinite one: the scale has been halved so many times


class SkippedSteps(Rule):
    """The gradient scaler skips every step, because some gradient is never finite.

    `scaler.step(optimizer)` looks for infinities and NaN, and where there are any it leaves the optimizer alone and
    says nothing: the next scale is to be half as large. That is meant for a step now and then. A NaN does not come
    from the scale and stays: no step is ever made, the scale runs towards 0, and the loss printed stays where it is.

    Observed: calls of `scaler.step` during which the optimizer did not step: 4 in a row while a gradient holds NaN (in
    float16, where an overflow gives NaN too, only with a scale below 1), or 24 in a row: the scale has become 2**-24
    of the first.

    Not reported: the few skipped steps at the start, while the scale comes down, and single ones later; a scaler that
    is not enabled.

    The fix is where the NaN is made: `torch.autograd.set_detect_anomaly(True)` names the operation. Often the square
    root or the logarithm of 0, the norm of a zero vector, the deviation of a single element, or 0 * inf in a mask.
    """

    code: ClassVar[str] = "BB413"
    title: ClassVar[str] = "the gradient scaler skips every step"
    explains: ClassVar[tuple[str, ...]] = ("BB405",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._stepped: weakref.WeakSet[Any] = weakref.WeakSet()  # since the last call of scaler.step
        self._skipped: weakref.WeakKeyDictionary[Any, tuple[int, int]] = weakref.WeakKeyDictionary()  # all, with NaN

        self._told: weakref.WeakSet[Any] = weakref.WeakSet()
        self._half = False  # some module computed in float16

    def module_called(self, call: ModuleCall) -> Findings:
        if not self._half:
            self._half = any(t.dtype == torch.float16 for t in tensors_in(call.output, 2))
        return ()

    def step_begins(self, step: Step) -> Findings:
        self._stepped.add(step.optimizer)
        return ()

    def scaler_called(self, call: ScalerCall) -> Findings:
        optimizer = call.args[0] if call.name == "step" and call.args else None
        if not isinstance(optimizer, torch.optim.Optimizer) or not call.scaler.is_enabled():
            return
        if optimizer in self._stepped:
            self._stepped.discard(optimizer)
            self._skipped.pop(optimizer, None)
            return
        all_skipped, with_nan = self._skipped.get(optimizer, (0, 0))
        held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        no_number = [p for p in held if bool(p.grad.isnan().any())]
        all_skipped, with_nan = all_skipped + 1, with_nan + 1 if no_number else 0
        self._skipped[optimizer] = (all_skipped, with_nan)
        proved = call.scaler.get_scale() < 1 or (not self._half and call.scaler.get_scale() <= NO_OVERFLOW)
        if (not (with_nan >= NOT_A_NUMBER and proved) and all_skipped < INFINITE) or optimizer in self._told:
            return
        self._told.add(optimizer)
        wrong = no_number or [p for p in held if not bool(p.grad.isfinite().all())]
        names = [self.run.name_of(p) for p in wrong]
        yield self.finding(
            f"the scaler has skipped {all_skipped} steps in a row: the gradient of {names[0] if names else 'one'} "
            f"{'is NaN, which no scale cures' if no_number else 'is infinite at every scale'}",
            call.place,
            fix="torch.autograd.set_detect_anomaly(True)  # names the operation whose backward makes it",
            evidence={
                "steps skipped": all_skipped,
                "scale now": f"{call.scaler.get_scale():g}",
                "parameters affected": f"{len(wrong)} of {len(held)}",
            },
        )
