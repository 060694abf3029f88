"""BB408."""

from __future__ import annotations

from typing import ClassVar

from blackbelt.doctor.events import ScheduleStep
from blackbelt.doctor.finding import Finding, Severity
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._schedules import Schedule, ScheduleRule

RISING = 2  # calls in a row past the end of the plan


class CosineWraps(ScheduleRule):
    """`CosineAnnealingLR` counts in another unit than it is stepped in: the rate goes up again, or never comes down.

    Past `T_max` the cosine does not stay at its minimum, it rises to the first rate again. With `T_max=epochs` and a
    step per batch the rate swings up and down all through training, and ends anywhere. With `T_max` in batches and a
    step per epoch it stays where it began.

    Observed: a `CosineAnnealingLR` is stepped with each step of its optimizer, goes past `T_max`, and the rate rises,
    within the first pass over the data; or, at the end of the run, `T_max` is the passes times the batches of a pass,
    and the scheduler was stepped once per pass. A warning where the rate has come back to the first in a later pass,
    at no multiple of its batches, or rises for the second time with no data loader to tell the passes.

    Not reported: `CosineAnnealingWarmRestarts`, `CyclicLR` and `OneCycleLR`, which go up on purpose; cosines that wrap
    a little at the end, whose `T_max` is a number of whole passes, or that are stepped per epoch, as cycles for
    snapshots and averaged weights are.

    The fix: `T_max=epochs * len(loader)` where it is stepped per batch, `T_max=epochs` where it is per epoch. Reported
    where the scheduler was made.
    """

    code: ClassVar[str] = "BB408"
    title: ClassVar[str] = "the cosine of the learning rate wraps"
    explains: ClassVar[tuple[str, ...]] = ("BB406",)

    def schedule_stepped(self, call: ScheduleStep) -> Findings:
        super().schedule_stepped(call)
        schedule = self.schedules.get(call.scheduler)
        if schedule is None or schedule.name != "CosineAnnealingLR" or not schedule.per_batch:
            return
        t_max, rates = schedule.plan["T_max"], schedule.rates[-RISING - 1 :]
        past = call.scheduler.last_epoch - t_max
        if self.in_pass and not self.passes:
            if past == RISING and rates == sorted(rates) and rates[-1] > rates[0]:
                yield self._wrapped(schedule, "in the first epoch", Severity.ERROR)
        elif self.in_pass:
            if past == max(t_max, RISING) and t_max % self.num_batches:
                yield self._wrapped(schedule, f"in epoch {t_max // self.num_batches + 1}", Severity.WARNING)
        elif not self.passes and past == 2 * t_max + RISING:
            yield self._wrapped(schedule, f"and again after {3 * t_max}", Severity.WARNING)

    def _wrapped(self, schedule: Schedule, where: str, severity: Severity) -> Finding:
        t_max = schedule.plan["T_max"]
        return self.finding(
            f"T_max={t_max} is over after {t_max} batches, {where}, as the scheduler is stepped per batch: "
            f"from there the learning rate rises again",
            schedule.made_at,
            fix="CosineAnnealingLR(optimizer, T_max=epochs * len(loader))  # or scheduler.step() once per epoch",
            evidence={"T_max": t_max, "calls of step": schedule.calls, "last rates": schedule.rates[-4:]},
            severity=severity,
        )

    def run_ends(self) -> Findings:
        for schedule in self.all:
            planned = schedule.plan.get("T_max")
            same = schedule.calls == self.passes and planned == self.passes * self.num_batches
            if schedule.name == "CosineAnnealingLR" and same and self.passes > 1 and self.num_batches > 2:
                yield self.finding(
                    f"T_max={planned} counts batches ({self.passes} epochs of {self.num_batches}), and the scheduler "
                    f"was stepped {schedule.calls} times, once per epoch: the learning rate never came down",
                    schedule.made_at,
                    fix="CosineAnnealingLR(optimizer, T_max=epochs)  # or scheduler.step() after every batch",
                    evidence={"T_max": planned, "calls of step": schedule.calls, "last rate": schedule.rates[-1]},
                )
