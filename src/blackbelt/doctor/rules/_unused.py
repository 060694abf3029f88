"""Optimizers that never step, though ``backward`` gives their parameters gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

from torch.optim import Optimizer

from blackbelt.doctor.events import Backward, Cleared, Created, ScalerCall, Step
from blackbelt.doctor.finding import Finding
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import GradientRule
from blackbelt.doctor.run import TRACED_STEPS, Run
from blackbelt.places import Place

MANY = 20  # gradients cleared with no step of anybody
FEW = 3  # the same, when the run ends


@dataclass(eq=False)
class Unused:
    """An optimizer that has not stepped."""

    optimizer: weakref.ref[Optimizer]
    kind: str
    made_at: Place | None
    parameters: frozenset[int]
    place: Place | None = None  # of the last backward that reached its parameters
    num_backwards: int = 0
    num_cleared: int = 0  # of these, those whose gradient its own or a module's zero_grad took away
    num_lost: int = 0  # of these, its own, where no step of anybody came right after backward
    waiting: bool = False
    followed: bool = False
    number: int = 0  # of the last backward that reached its parameters
    size: float | None = None  # norm of one of the parameters, to see whether somebody else moves them
    over: bool = False  # it stepped, or others move its parameters


class UnusedRule(GradientRule):
    """Base of the rule that reports them. Call ``super()`` first in every method overridden."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._unused: list[Unused] = []
        self._scaled = False  # by a gradient scaler, which may skip steps

    def created(self, thing: Created) -> Findings:
        super().created(thing)
        optimizer = thing.thing
        if isinstance(optimizer, Optimizer):
            held = frozenset(id(p) for group in optimizer.param_groups for p in group["params"])
            place = self.run.made_at(optimizer)
            self._unused.append(Unused(weakref.ref(optimizer), type(optimizer).__name__, place, held))
        return ()

    def scaler_called(self, call: ScalerCall) -> Findings:
        super().scaler_called(call)
        self._scaled |= call.scaler.is_enabled()
        return ()

    def backward_ends(self, call: Backward) -> Findings:
        super().backward_ends(call)
        for unused in self._unused if self.run.traced else ():
            reached = unused.parameters & self.gradients.leaves
            if not reached or unused.over or unused.optimizer() is None:
                continue
            leaf = call.graph.leaves[min(reached)]
            size = float(leaf.norm()) if leaf.is_floating_point() else 0.0
            unused.over = unused.size is not None and unused.size != size
            unused.size, unused.place, unused.waiting = size, call.place, True
            unused.num_backwards += 1
            unused.number, unused.followed = self.gradients.number, False
        return ()

    def gradients_cleared(self, call: Cleared) -> Findings:
        super().gradients_cleared(call)
        if not any(unused.waiting and not unused.over for unused in self._unused):
            return
        cleared = {id(p) for p in call.parameters}
        for unused in self._unused:
            optimizer = unused.optimizer()
            if (
                unused.waiting
                and not unused.over
                and (call.owner is optimizer or (self._alone and cleared & unused.parameters))
            ):
                unused.waiting = False
                unused.num_cleared += 1
                unused.num_lost += call.owner is optimizer and not unused.followed
                if unused.num_lost == MANY and not self.run.num_steps and not self._scaled:
                    unused.over = True
                    yield self._never(unused)

    @property
    def _alone(self) -> bool:
        return len(self._unused) == 1

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        for unused in self._unused:
            if unused.optimizer() is step.optimizer:
                unused.over = True
            unused.followed |= unused.number == self.gradients.number
        return ()

    def step_ends(self, step: Step) -> Findings:
        super().step_ends(step)
        if self.run.num_steps == TRACED_STEPS:
            yield from self._report_unused(lambda unused: unused.num_lost > FEW)

    def run_ends(self) -> Findings:
        yield from self._report_unused(
            lambda unused: unused.num_cleared >= FEW or (not self.run.num_steps and unused.num_backwards >= FEW)
        )

    def _report_unused(self, is_enough: Callable[[Unused], bool]) -> Findings:
        for unused in self._unused:
            if is_enough(unused) and not unused.over and not self._scaled and not self._is_moved(unused):
                unused.over = True
                yield self._never(unused)

    def _is_moved(self, unused: Unused) -> bool:
        return any(other.over and other.parameters & unused.parameters for other in self._unused if other is not unused)

    def _never(self, unused: Unused) -> Finding:
        return self.finding(
            f"{unused.kind} never steps: {unused.num_backwards} calls of backward have given its parameters gradients, "
            f"and nobody used them",
            unused.place,
            fix="loss.backward()\noptimizer.step()",
            evidence={
                "calls of backward": unused.num_backwards,
                "steps of this optimizer": 0,
                "made at": unused.made_at,
            },
        )
