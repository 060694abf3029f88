"""BB601."""

from __future__ import annotations

from typing import Any, ClassVar

from blackbelt.doctor.finding import Severity
from blackbelt.doctor.rules._ranks import AGAIN, PAST, SynchronizationRule, Unsynced


class Bypassed(SynchronizationRule):
    """The model is wrapped in DistributedDataParallel, and the one inside is called: gradients are not averaged.

    DistributedDataParallel prepares the averaging of gradients in its own forward. `model.module(x)`, a method such as
    `model.module.training_step(batch)`, or the variable that the model had before it was wrapped, pass it by: backward
    then leaves every rank with the gradient of its own data, each rank trains a model of its own, and rank 0 saves one
    of them, which has seen a fraction of the data.

    Observed: a step of the optimizer uses gradients of the wrapped parameters, and the backward before it came from no
    forward through the wrapper, or was the second one since that forward. An error where another rank has other
    gradients at the same step, which ranks tell each other in files; a warning, after three such steps, where they
    cannot (`watch()` in a script of your own).

    Not reported: one process; calls without gradients, as for validation; a second loss from the inner model that is
    added before the one call of backward; gradients or parameters that your own code averages (`all_reduce`, local
    SGD).

    The fix: call the wrapper, and move what `training_step` does into `forward`. Reported where the inner model is
    called.
    """

    code: ClassVar[str] = "BB601"
    title: ClassVar[str] = "DistributedDataParallel is passed by"
    explains: ClassVar[tuple[str, ...]] = ("BB607",)
    reasons: ClassVar[tuple[str, ...]] = (PAST, AGAIN)

    def report(self, step: Unsynced, severity: Severity) -> Any:
        if step.reason == AGAIN:
            how, fix = (
                "has a second backward since its last forward, which is not averaged",
                "(loss_a + loss_b).backward()",
            )
        else:
            how, fix = (
                "is called past its DistributedDataParallel",
                "output = ddp_model(batch)  # the wrapper, in training",
            )
        return self.finding(
            f"{step.model} {how}, so every rank steps with its own gradients",
            step.place,
            fix=fix,
            evidence={
                "calls of backward without averaging, before the step": step.num_backwards,
                "gradients on another rank": "different" if severity is Severity.ERROR else "not known",
            },
            severity=severity,
        )
