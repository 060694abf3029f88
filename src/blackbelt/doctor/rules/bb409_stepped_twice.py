"""BB409."""

from __future__ import annotations

import weakref
from typing import ClassVar

from torch.optim import Optimizer

from blackbelt.doctor.events import Backward, Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import GradientRule
from blackbelt.doctor.run import Run

CONFIRMED = 2  # times


class SteppedTwice(GradientRule):
    """Two optimizers hold the same parameter, and both step with the same gradient.

    It moves twice per batch, at two learning rates, with weight decay twice, and each optimizer's momentum believes
    that it alone moved it. PyTorch warns of a parameter that is twice in one optimizer, and cannot see this.

    Observed: an optimizer steps, and then another one steps with the gradient of a parameter that is bitwise the same,
    with no `backward` between; both moved the parameter; twice.

    Not reported: optimizers that take turns, each with its own `backward`, on shared parameters; a wrapper whose step
    calls the step of the optimizer inside it; a second optimizer that leaves the parameter as it is.

    The fix: give each parameter to one optimizer, for example by name: `[p for name, p in model.named_parameters() if
    not name.startswith("head.")]`; or one optimizer with two parameter groups. Reported where the second of the two
    optimizers was made.
    """

    code: ClassVar[str] = "BB409"
    title: ClassVar[str] = "two optimizers step the same parameter"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._running: list[int] = []
        self._moved: dict[int, weakref.ref[Optimizer]] = {}  # parameters moved since the last backward, and by whom
        self._times: dict[tuple[int, int], int] = {}

    def backward_ends(self, call: Backward) -> Findings:
        super().backward_ends(call)
        self._moved = {}
        return ()

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        self._running.append(id(step.optimizer))
        return ()

    def step_ends(self, step: Step) -> Findings:
        both: dict[int, list[int]] = {}
        others: dict[int, Optimizer] = {}
        if id(step.optimizer) in self._running:
            del self._running[self._running.index(id(step.optimizer)) :]
        moved = (
            []
            if self._running or not self.run.traced
            else [
                (p, account)
                for p, account in self.accounts(step.parameters)
                if account.deposits and (same := step.unchanged(p)) is not None and not bool(same.all())
            ]
        )
        for parameter, account in moved:
            other = self._moved[id(parameter)]() if id(parameter) in self._moved else None
            if other is not None and other is not step.optimizer and account.used:
                both.setdefault(id(other), []).append(id(parameter))
                others[id(other)] = other
        super().step_ends(step)
        self._moved.update({id(p): weakref.ref(step.optimizer) for p, _ in moved})
        names = {id(p): self.run.name_of(p) for p, _ in moved}
        for key, parameters in both.items():
            pair = (min(key, id(step.optimizer)), max(key, id(step.optimizer)))
            self._times[pair] = self._times.get(pair, 0) + 1
            if self._times[pair] == CONFIRMED:
                known = [o for o in self.gradients.made if (o() is others[key] or o() is step.optimizer)]
                second = known[-1]() if known else step.optimizer
                yield self.finding(
                    f"{len(parameters)} parameters ({names[parameters[0]]}, …) are in two optimizers, and both step "
                    f"with the same gradient"
                    if len(parameters) > 1
                    else f"{names[parameters[0]]} is in two optimizers, and both step with the same gradient",
                    self.run.made_at(second),
                    fix="# leave out here what the other optimizer holds, or make one optimizer with two groups",
                    evidence={
                        "optimizers": f"{type(others[key]).__name__}, {type(step.optimizer).__name__}",
                        "parameters in both": len(parameters),
                    },
                )
