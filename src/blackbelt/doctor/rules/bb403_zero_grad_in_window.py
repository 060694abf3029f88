"""BB403."""

from __future__ import annotations

import weakref
from typing import ClassVar

from torch.optim import Optimizer

from blackbelt.doctor.events import Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import GradientRule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 3  # windows in a row, of the same length


class ZeroGradInWindow(GradientRule):
    """`zero_grad` is called for every micro-batch of an accumulation, so all but the last gradient are thrown away.

    You pay for k batches a step and train on one, and, as the loss is divided by k, with a k-th of the learning rate.
    The loss falls, more slowly than it could.

    Observed: between two steps of an optimizer the same line calls `backward` k times, and before the step k - 1 of
    these gradients were cleared, with no step of any optimizer between; the step uses the last one as it was. Three
    steps in a row, with the same k.

    Not reported: gradients that are thrown away now and then, because they were not finite or too large; steps that a
    scaler skips; gradients that are read and combined by hand; evaluations of a closure; losses of another part, whose
    gradients are cleared on purpose; parameters that changed in between, as in sharpness-aware minimization.

    The fix: `zero_grad` right after `step`, under the same `if`. Reported at the `zero_grad`.
    """

    code: ClassVar[str] = "BB403"
    title: ClassVar[str] = "gradients are cleared while they are accumulated"
    lesson: ClassVar[str] = "autograd/accumulation"
    explains: ClassVar[tuple[str, ...]] = ("BB306",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._windows: weakref.WeakKeyDictionary[Optimizer, list[tuple[int, Place | None]]] = (
            weakref.WeakKeyDictionary()
        )
        self._versions: dict[int, int] = {}  # of parameters after the last step of their optimizer

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        if not self.run.traced:
            return
        windows = self._windows.setdefault(step.optimizer, [])
        windows.append(self._window(step))
        if len(windows) < CONFIRMED or len(set(windows[-CONFIRMED:])) > 1 or windows[-1][0] < 2:
            return
        k, place = windows[-1]
        yield self.finding(
            f"the gradients of {k - 1} of {k} calls of backward are cleared before a step uses them",
            place,
            fix="optimizer.step()\noptimizer.zero_grad()  # here, after the step, and nowhere else",
            evidence={"calls of backward per step": k, "whose gradient is used": 1, "steps seen": step.number},
        )

    def _window(self, step: Step) -> tuple[int, Place | None]:
        nothing: tuple[int, Place | None] = (0, None)
        found = set()
        for parameter, account in self.accounts(step.parameters):
            if not account.deposits:
                continue
            moved = self._versions.get(id(parameter)) != parameter._version  # noqa: SLF001 - has no public name
            if len(account.deposits) > 1 or (step.number > 1 and moved):
                return nothing
            places = {d.place for d in (*account.lost, *account.deposits)}
            if len(places) > 1 or (
                account.lost and account.deposits[-1].number - account.lost[0].number != len(account.lost)
            ):
                return nothing
            found.add(
                (len(account.lost) + 1, account.lost[0].cleared_at or account.lost[0].place if account.lost else None)
            )
        return max(found, key=lambda window: window[0]) if found else nothing

    def step_ends(self, step: Step) -> Findings:
        super().step_ends(step)
        if self.run.traced:
            self._versions.update({id(p): p._version for p in step.parameters})  # noqa: SLF001 - has no public name
        return ()
