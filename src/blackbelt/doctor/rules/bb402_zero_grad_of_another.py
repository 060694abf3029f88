"""BB402."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from blackbelt.doctor.events import Backward, Step, head
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import Deposit, GradientRule, wrong_clear
from blackbelt.doctor.rules.bb401_zero_grad_missing import used_again
from blackbelt.doctor.run import Run

CONFIRMED = 2  # steps in a row
OPPOSED = -0.5  # cosine of two gradients that are added


@dataclass(frozen=True)
class Foreign:
    """A gradient of two losses: an optimizer stepped after the first, and this one is about to use both."""

    first: Deposit
    fresh: Deposit
    cosine: float


class ZeroGradOfAnother(GradientRule):
    """With several optimizers, the gradients of one are cleared where those of another should be.

    The losses of a GAN or of an actor and a critic reach the parameters of both. If `zero_grad` of the wrong optimizer
    is called, the discriminator steps with its own gradient plus that of the generator's loss, which is nearly its
    opposite, or with all it has used before. Both losses look plausible; training is unstable.

    Observed: an optimizer steps with what it used before, and the `zero_grad` just before `backward` was that of
    others; or it steps with gradients of two losses, after the first of which another optimizer stepped, and which
    point against each other (cosine below -0.5). Twice in a row.

    Not reported: gradients of another loss that are cleared before they are used; several losses on purpose that point
    the same way; parts that are stepped more rarely than others.

    The fix: each optimizer's own `zero_grad` just before the `backward` of its loss; and `.detach()` on what comes
    from the other part. Reported at the `zero_grad` of the wrong one, or where `backward` adds the foreign gradient.
    """

    code: ClassVar[str] = "BB402"
    title: ClassVar[str] = "the gradients of the wrong optimizer are cleared"
    lesson: ClassVar[str] = "autograd/accumulation"
    explains: ClassVar[tuple[str, ...]] = ("BB212",)

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._times: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._before: dict[int, list[float]] = {}  # first elements of gradients before the backward that runs
        self._added: dict[int, tuple[int, float]] = {}  # parameter: call of backward, and cosine with what was there

    def backward_begins(self, call: Backward) -> Findings:
        super().backward_begins(call)
        self._before = {}
        if self.run.traced and len(self.gradients.known()) > 1:
            for parameter, account in self._leaves(call):
                if account and parameter.grad is not None and not parameter.grad.is_sparse:
                    self._before[id(parameter)] = head(parameter.grad).tolist()
        return ()

    def backward_ends(self, call: Backward) -> Findings:
        super().backward_ends(call)
        for parameter, _ in self._leaves(call) if self._before else ():
            before = self._before.get(id(parameter))
            if before is not None and parameter.grad is not None:
                now = head(parameter.grad).double()
                old = torch.tensor(before, dtype=torch.float64, device=now.device)
                cosine = torch.nn.functional.cosine_similarity(old, now - old, dim=0)
                self._added[id(parameter)] = (self.gradients.number, float(cosine))
        self._before = {}
        return ()

    def _leaves(self, call: Backward) -> list[tuple[Tensor, bool]]:
        leaves = call.graph.leaves.values()
        return [(p, bool(account.deposits)) for p, account in self.accounts(leaves)]

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        if not self.run.traced or len(self.gradients.known()) < 2:
            return
        old = used_again(self, step)
        foreign = [] if old else self._foreign(step)
        clear = None
        if old or foreign:
            clear = wrong_clear(self.gradients, step, old[0][1] if old else foreign[0].fresh)
        if clear is not None and foreign and clear.parameters & self.gradients.leaves:
            clear = None
        foreign = [f for f in foreign if f.cosine < OPPOSED]
        foreign = foreign if 2 * len(foreign) > len(step.parameters) else []
        times = self._times[step.optimizer] = self._times.get(step.optimizer, 0) + 1 if clear or foreign else 0
        if times != CONFIRMED:
            return
        kind = f"{type(step.optimizer).__name__} of {self.run.name_of(step.parameters[0])}"
        if clear is not None:
            yield self.finding(
                f"the gradients of another optimizer are cleared here, and those that {kind} is about to use are not",
                clear.place,
                fix="this_optimizer.zero_grad()  # the one whose step follows",
                evidence={
                    "step of this optimizer": step.number,
                    "parameters affected": len(old) or len(step.parameters),
                },
            )
        else:
            yield self.finding(
                f"{kind} steps with the gradients of two losses, between which another optimizer stepped and which "
                f"point against each other",
                foreign[0].first.place,
                fix="this_optimizer.zero_grad()  # just before the backward of its own loss",
                evidence={
                    "cosine of the two": f"{min(f.cosine for f in foreign):.2f}",
                    "parameters affected": len(foreign),
                },
            )

    def _foreign(self, step: Step) -> list[Foreign]:
        found = []
        for parameter, account in self.accounts(step.parameters):
            first = next((d for d in account.deposits if d.followed and not d.used), None)
            fresh = next((d for d in account.deposits if not d.followed), None)
            if first is not None and fresh is not None and first.place != fresh.place:
                number, cosine = self._added.get(id(parameter), (0, 0.0))
                found.append(Foreign(first, fresh, cosine if number == fresh.number else 0.0))
        return found
