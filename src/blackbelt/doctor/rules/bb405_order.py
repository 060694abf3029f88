"""BB405."""

from __future__ import annotations

import weakref
from typing import ClassVar

from torch.optim import Optimizer

from blackbelt.doctor.events import Clipped, Step
from blackbelt.doctor.rule import Findings
from blackbelt.doctor.rules._gradients import NOTHING, norms
from blackbelt.doctor.rules._unused import UnusedRule
from blackbelt.doctor.run import Run
from blackbelt.places import Place

CONFIRMED = 2  # times in a row


class Order(UnusedRule):
    """`backward`, clipping, `step` and `zero_grad` come in an order in which one has no effect, or `step` is missing.

    A step before `backward`, or a `zero_grad` between the two, finds no gradient and does nothing; so does a run that
    never calls `step`, calls it without parentheses, or calls that of another optimizer. Clipping after the step, or
    before `backward`, clips what nobody uses.

    Observed: an optimizer steps twice in a row with no gradient at all, after `backward` had given it some and
    `zero_grad` took them away; gradients of an optimizer that never steps are cleared again and again and its
    parameters stay as they are; a clipping finds gradients that a step has used already, or none, twice in a row, and
    nothing else clips what the step uses.

    Not reported: a step that uses the gradient of the iteration before; parameters that another optimizer, or code of
    your own, moves; steps that a scaler skips; clipping to infinity, which measures.

    The fix: `zero_grad`, `backward`, clipping, `step`, in this order. Reported at the call that stands in the wrong
    place; where `step` is missing, at `backward`.
    """

    code: ClassVar[str] = "BB405"
    title: ClassVar[str] = "backward, clipping and step in the wrong order"
    explains: ClassVar[tuple[str, ...]] = ("BB212", "BB402")

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._empty: weakref.WeakKeyDictionary[Optimizer, tuple[int, Place | None]] = weakref.WeakKeyDictionary()
        self._late: dict[str, int] = {}  # clippings, by line: how often in a row without an effect
        self._early: dict[
            str, tuple[Place | None, int, frozenset[int]]
        ] = {}  # clippings of nothing: after which backward
        self._in_time: set[int] = set()  # parameters that are clipped as they should be

    def clipped(self, call: Clipped) -> Findings:
        super().clipped(call)
        if not self.run.traced or call.limit == float("inf"):
            return
        line, held = str(call.place), frozenset(map(id, call.parameters))
        if all(now == NOTHING for now in norms(call.parameters)):
            self._early[line] = (call.place, self.gradients.number, held)
            return
        used = [account.used for _, account in self.accounts(call.parameters) if account.deposits]
        if not used or not all(used):
            self._in_time |= held
            self._late.pop(line, None)
            return
        times = self._late[line] = self._late.get(line, 0) + 1
        if times == CONFIRMED and not held & self._in_time:
            yield self.finding(
                "the gradients are clipped after the step that used them",
                call.place,
                fix="torch.nn.utils.clip_grad_norm_(model.parameters(), limit)\noptimizer.step()",
                evidence={"norm before": _shown(call), "limit": f"{call.limit:g}", "times in a row": times},
            )

    def step_begins(self, step: Step) -> Findings:
        super().step_begins(step)
        if not self.run.traced:
            return
        accounts = self.accounts(step.parameters)
        yield from self._look_at_empty(step)
        for line, (place, number, held) in list(self._early.items()):
            if any(a.deposits and a.deposits[-1].number > number and id(p) in held for p, a in accounts):
                del self._early[line]
                times = self._late[line] = self._late.get(line, 0) + 1
                if times == CONFIRMED and not held & self._in_time:
                    yield self.finding(
                        "the gradients are clipped before backward has made them",
                        place,
                        fix="loss.backward()\ntorch.nn.utils.clip_grad_norm_(model.parameters(), limit)",
                        evidence={"norm clipped": 0, "times in a row": times},
                    )

    def _look_at_empty(self, step: Step) -> Findings:
        """Look whether an optimizer steps with nothing, though backward had given it something."""
        accounts = self.accounts(step.parameters)
        lost = [account.lost[-1] for _, account in accounts if account.lost]
        if not lost or self._scaled or any(now != NOTHING for now in norms(step.parameters)):
            self._empty.pop(step.optimizer, None)
            return
        times, place = self._empty.get(step.optimizer, (0, None))
        if not times:  # which of the three calls came first tells which of them stands in the wrong place
            place = lost[0].cleared_at if step.number == 1 else step.place
        self._empty[step.optimizer] = (times + 1, place)
        if times + 1 == CONFIRMED:
            between = place == lost[0].cleared_at
            kind = type(step.optimizer).__name__
            yield self.finding(
                f"zero_grad between backward and step takes away what {kind} was to step with"
                if between
                else f"{kind} steps before backward, when zero_grad has just taken the gradients away",
                place or lost[0].place,
                fix="optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
                evidence={"parameters with a gradient at the step": f"0 of {len(step.parameters)}"},
            )


def _shown(call: Clipped) -> str:
    return "unknown" if call.norm is None else f"{float(call.norm):.4g}"
