"""BB406."""

from __future__ import annotations

import weakref
from typing import ClassVar

from torch.optim import Optimizer

from blackbelt.doctor.events import Created, Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._schedules import Schedule, ScheduleRule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

NONE_AT_ALL = 5  # steps in a row with a rate of 0
SMALL = 1e-3  # of the largest rate so far
MANY = 20  # steps in a row with less than that,
SHARE = 0.3  # being this much of all steps


class NoRate(ScheduleRule):
    """The learning rate is 0, or a scheduler that counts epochs is stepped per batch and has brought it near 0.

    `StepLR(optimizer, 30)` after every batch divides the rate by ten every 30 batches; after some hundred nothing
    moves, in the first epoch still. The other way round, a warm-up that counts batches and is stepped per epoch starts
    with a rate of 0, and the first epoch trains nothing.

    Observed: the rate of every group is 0 in the first 5 steps of an optimizer; or a scheduler is stepped with each
    step of its optimizer, and for 20 steps, and 30 % of all, the rate has been below a thousandth of the largest.

    Not reported: a warm-up that starts from 0 for a step; the end of a decay to 0; a group with a rate of 0 beside
    others (frozen so on purpose); a rate that comes down by epochs; `ReduceLROnPlateau`.

    The fix: `scheduler.step()` after the loop over batches if it counts epochs, inside it if it counts batches.
    Reported at the `scheduler.step()`, or where the scheduler or the optimizer with the rate of 0 was made.
    """

    code: ClassVar[str] = "BB406"
    title: ClassVar[str] = "the learning rate is 0, or nearly, for many steps"
    explains: ClassVar[tuple[str, ...]] = ("BB414",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._zeros: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._largest: weakref.WeakKeyDictionary[Optimizer, float] = weakref.WeakKeyDictionary()
        self._small: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._planned: weakref.WeakKeyDictionary[Optimizer, Place | None] = weakref.WeakKeyDictionary()

    def created(self, thing: Created) -> Findings:
        optimizer = getattr(thing.thing, "optimizer", None)
        if isinstance(optimizer, Optimizer) and not isinstance(thing.thing, Optimizer):
            self._planned[optimizer] = self.run.made_at(thing.thing)
        return ()

    def step_begins(self, step: Step) -> Findings:
        optimizer = step.optimizer
        rates = [float(group.get("lr", 1)) for group in optimizer.param_groups if group["params"]]
        if not rates:
            return
        largest = self._largest[optimizer] = max(self._largest.get(optimizer, 0.0), *rates)
        if largest == 0:
            if step.number == NONE_AT_ALL:
                yield self._zero(step)
            return
        self._small[optimizer] = self._small.get(optimizer, 0) + 1 if max(rates) < SMALL / 2 * largest else 0
        few = self._small[optimizer] < MANY or self._small[optimizer] < SHARE * step.number
        schedules = [] if few else [s for s in self.schedules.values() if s.optimizer() is optimizer and s.per_batch]
        if schedules:
            yield self._decayed(step, schedules[-1], max(rates), largest)

    def _zero(self, step: Step) -> Finding:
        kind, place = type(step.optimizer).__name__, self._planned.get(step.optimizer)
        return self.finding(
            f"the learning rate of {kind} was 0 in each of its first {step.number} steps: nothing is trained",
            place or self.run.made_at(step.optimizer),
            fix="scheduler.step()  # after every optimizer.step(), if the warm-up counts batches"
            if place
            else f"{kind}(…, lr=1e-3)",
            evidence={"learning rates": "0", "steps": step.number},
        )

    def _decayed(self, step: Step, schedule: Schedule, rate: float, largest: float) -> Finding:
        return self.finding(
            f"{schedule.name} is stepped with every batch, and the learning rate has been below a thousandth of "
            f"{largest:g} for {self._small[step.optimizer]} of {step.number} steps",
            schedule.stepped_at,
            fix="for batch in loader:\n    …\nscheduler.step()  # once per epoch, after the loop",
            evidence={
                "learning rate now": f"{rate:.3g}",
                "largest": f"{largest:g}",
                "steps of the scheduler": schedule.calls,
                "passes over the data": self.passes,
            },
        )
