"""Which passes over data loaders are trained on: a batch was loaded, and then an optimizer stepped."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from blackbelt.doctor.events import Batch, Epoch, ModuleCall, Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.doctor.run import Run
from blackbelt.places import Place


@dataclass(eq=False)
class Pass:
    """A pass over a loader, so far."""

    loader: weakref.ref[Any]
    number: int
    place: Place | None  # of the loop, or of the call of `iter`
    num_batches: int = 0
    num_steps: int = 0  # of optimizers, made with its batches
    optimizer: weakref.ref[torch.optim.Optimizer] | None = None  # the first that stepped
    ended: bool = False
    used: bool = False  # its last batch, or another beside it, has gone into a model with gradients
    judged: bool = False  # into a model without gradients

    @property
    def is_evaluation(self) -> bool:
        """Whether the last batch went into a model without gradients only."""
        return self.judged and not self.used

    def is_trained_by(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether this optimizer was the first to step on it."""
        return self.optimizer is not None and self.optimizer() is optimizer


class PassRule(Rule):
    """A rule on passes. Override :meth:`begins`, :meth:`loads` and :meth:`trains`."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._open: dict[int, Pass] = {}
        self._fresh: list[Pass] = []  # with a batch since the last step

    def begins(self, begun: Pass, loader: Any) -> None:
        """A pass begins."""

    def loads(self, current: Pass, batch: Batch) -> None:
        """A batch of a pass was loaded."""

    def trains(self, current: Pass, step: Step) -> Findings:  # noqa: ARG002 - for those who override it
        """An optimizer has stepped, with batches of this pass since its last step. Yield findings."""
        return ()

    def epoch_begins(self, epoch: Epoch) -> Findings:
        begun = self._open[id(epoch.loader)] = Pass(weakref.ref(epoch.loader), epoch.number, epoch.place)
        self.begins(begun, epoch.loader)
        return ()

    def batch_loaded(self, batch: Batch) -> Findings:
        current = self._open.get(id(batch.loader))
        if current is None or current.loader() is not batch.loader:
            return ()
        self._fresh = [one for one in self._fresh if not one.is_evaluation or one is current]
        current.num_batches, current.used, current.judged = batch.number, False, False
        if current not in self._fresh:
            self._fresh.append(current)
        self.loads(current, batch)
        return ()

    def module_called(self, call: ModuleCall) -> Findings:
        if call.depth == 0:
            for one in self._fresh:
                one.used |= call.grad_enabled
                one.judged |= not call.grad_enabled
        return ()

    def epoch_ends(self, epoch: Epoch) -> Findings:
        ended = self._open.get(id(epoch.loader))
        if ended is not None:
            ended.ended = True
            self._fresh = [one for one in self._fresh if one is not ended or not one.is_evaluation]
        return ()

    def step_ends(self, step: Step) -> Iterator[Finding]:
        fresh, self._fresh = self._fresh, []
        for one in fresh:
            if not one.is_evaluation:
                one.num_steps += 1
                one.optimizer = one.optimizer or weakref.ref(step.optimizer)
                yield from self.trains(one, step)
