"""BB603."""

from __future__ import annotations

from typing import Any, ClassVar

from blackbelt.doctor.finding import Severity
from blackbelt.doctor.rules._ranks import NO_SYNC, SynchronizationRule, Unsynced


class NeverSynchronized(SynchronizationRule):
    """The last micro-batch before a step is under `no_sync()` as well: gradients are never averaged.

    While gradients accumulate, `no_sync()` saves communication: the gradients stay on their rank, and the first
    backward outside of it averages all that has gathered. When the micro-batch before `optimizer.step()` is inside
    too, because of a condition that is off by one or a last window that is shorter, every rank steps with a sum of its
    own, and the models drift apart.

    Observed: a step of the optimizer uses gradients of the wrapped parameters, and the last backward before it came
    from a forward under `no_sync()`. An error where another rank has other gradients at the same step, which ranks tell
    each other in files; a warning, after three such steps, where they cannot (`watch()` in a script of your own).

    Not reported: one process; windows whose last forward and backward are outside; a forward outside and only its
    backward inside, which averages all the same; gradients or parameters that your own code averages (`all_reduce`,
    local SGD).

    The fix: `with model.no_sync() if not is_last else nullcontext():` around forward and backward, where `is_last` is
    the same condition as that of the step. Reported where `no_sync` is called.
    """

    code: ClassVar[str] = "BB603"
    title: ClassVar[str] = "gradients are stepped that were never averaged"
    explains: ClassVar[tuple[str, ...]] = ("BB607",)
    reasons: ClassVar[tuple[str, ...]] = (NO_SYNC,)

    def report(self, step: Unsynced, severity: Severity) -> Any:
        return self.finding(
            f"the last backward before a step of {step.model} is under no_sync(), so every rank steps with its own "
            f"gradients",
            step.place,
            fix="is_last = (i + 1) % accumulate == 0  # the condition of the step\n"
            "with nullcontext() if is_last else model.no_sync():\n    loss = …\n    loss.backward()",
            evidence={
                "calls of backward without averaging, before the step": step.num_backwards,
                "gradients on another rank": "different" if severity is Severity.ERROR else "not known",
            },
            severity=severity,
        )
