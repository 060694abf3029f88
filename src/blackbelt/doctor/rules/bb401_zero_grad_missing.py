"""BB401."""

from __future__ import annotations

import weakref
from typing import ClassVar

from torch import Tensor
from torch.optim import Optimizer

from blackbelt.doctor.events import Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import Deposit, GradientRule, wrong_clear
from blackbelt.doctor.run import Run

CONFIRMED = 2  # steps in a row


class ZeroGradMissing(GradientRule):
    """The gradients are never cleared, so every step uses again what the steps before it have used.

    `backward` adds to `.grad`. Without `zero_grad` the gradient is the sum over all batches so far: it grows, points
    where the loss was lowest long ago, and training is noisy or diverges. Nothing is thrown, and Adam, which divides
    the size of the gradient out, hides it for a while.

    Observed: the gradient of a parameter is bitwise what the last step of its optimizer left, `backward` adds to it,
    and the optimizer steps with the sum; twice in a row.

    Not reported: several calls of `backward` before a step (accumulation), however many; gradients that are cleared,
    set to None or written in any other way before the step that uses them; what another loss leaves in parameters
    whose optimizer clears them in time, as in a GAN; closures.

    The fix: `optimizer.zero_grad()` before `backward`, or after `step`, for every parameter that the optimizer holds.
    `model.zero_grad()` clears the model's alone. Reported where `backward` adds.
    """

    code: ClassVar[str] = "BB401"
    title: ClassVar[str] = "gradients are not cleared between steps"
    lesson: ClassVar[str] = "autograd/accumulation"
    explains: ClassVar[tuple[str, ...]] = ("BB212",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._times: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        if not self.run.traced:
            return
        old = used_again(self, step)
        self._times[step.optimizer] = self._times.get(step.optimizer, 0) + 1 if old else 0
        if self._times[step.optimizer] != CONFIRMED or wrong_clear(self.gradients, step, old[0][1]):
            return
        parameter, deposit = old[0]
        kind = type(step.optimizer).__name__
        names = "all its" if len(old) == len(step.parameters) else f"{len(old)} of its {len(step.parameters)}"
        yield self.finding(
            f"the gradients are not cleared: step {step.number} of {kind} uses again what its step {step.number - 1} "
            f"used, for {names} parameters",
            deposit.place,
            fix="optimizer.zero_grad()  # before this line, in every iteration",
            evidence={
                "parameter": self.run.name_of(parameter),
                "calls of zero_grad seen": len(self.gradients.clears),
                "norm of its gradient": f"{float(parameter.grad.norm()):.4g}" if parameter.grad is not None else "none",
            },
        )


def used_again(rule: GradientRule, step: Step) -> list[tuple[Tensor, Deposit]]:
    """Return the parameters whose gradient holds what a step has used, with the first call that added to it since."""
    found = []
    for parameter, account in rule.accounts(step.parameters):
        fresh = next((d for d in account.deposits if not d.followed), None)
        fresh = fresh or next((d for d in account.deposits if not d.used), None)
        if fresh is not None and any(d.used or d.added_to_used for d in account.deposits):
            found.append((parameter, fresh))
    return found
