"""What rules on learning rates share: the steps of each scheduler beside those of its optimizer, and the passes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from blackbelt.doctor.events import Epoch, ScheduleStep, Step
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

MAX_KEPT = 64


@dataclass(eq=False)
class Schedule:
    """One scheduler, as it was stepped."""

    name: str
    made_at: Place | None
    stepped_at: Place | None
    optimizer: weakref.ref[Any]
    plan: dict[str, int]  # T_max, total_steps: what it counts
    calls: int = 0
    steps: int = 0  # of the optimizer, since the scheduler's first call
    rates: list[float] = field(default_factory=list)  # the first group's, after the last calls

    @property
    def per_batch(self) -> bool:
        """Whether it is stepped as often as its optimizer, nearly."""
        return self.calls >= 4 and self.calls >= 0.8 * self.steps


class ScheduleRule(Rule):
    """Base of rules that look at schedulers. Call ``super()`` first in every method overridden."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.schedules: weakref.WeakKeyDictionary[Any, Schedule] = weakref.WeakKeyDictionary()
        self.all: list[Schedule] = []  # as the schedulers may be gone when the run ends
        self.num_batches = 0  # of the last pass that trained
        self.passes = 0
        self.num_steps = 0  # of any optimizer in this pass
        self.in_pass = False  # over a data loader

    def schedule_stepped(self, call: ScheduleStep) -> Findings:
        scheduler = call.scheduler
        if isinstance(scheduler, ReduceLROnPlateau) or getattr(scheduler, "_is_initial", scheduler.last_epoch == 0):
            return ()  # the constructor makes a step
        schedule = self.schedules.get(scheduler)
        if schedule is None:
            plan = {name: getattr(scheduler, name) for name in ("T_max", "total_steps") if hasattr(scheduler, name)}
            place = self.run.made_at(scheduler)
            optimizer = weakref.ref(scheduler.optimizer)
            schedule = Schedule(type(scheduler).__name__, place, call.place, optimizer, plan)
            if len(self.all) < MAX_KEPT:
                self.all.append(schedule)
            self.schedules[scheduler] = schedule
            schedule.steps = 1
        schedule.calls += 1
        schedule.rates = [*schedule.rates[-5:], float(call.rates[0])]
        return ()

    def step_ends(self, step: Step) -> Findings:
        self.num_steps += 1
        for schedule in self.schedules.values():
            schedule.steps += schedule.optimizer() is step.optimizer
        return ()

    def epoch_begins(self, _: Epoch) -> Findings:
        self.in_pass = True
        return ()

    def epoch_ends(self, epoch: Epoch) -> Findings:
        self.in_pass = False
        if self.num_steps:  # a pass that trained
            self.passes += 1
            self.num_batches, self.num_steps = epoch.num_batches, 0
        return ()
