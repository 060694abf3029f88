"""How a training goes, optimizer by optimizer: norm of the gradient, size of the updates, learning rate.

Taken at every one of the first steps and at ever fewer later ones, so that a run of a million steps keeps some hundred
points. What is measured are the first elements of each parameter, as the rules see them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from blackbelt.doctor.events import Step, head
from blackbelt.doctor.rule import Findings, Rule
from blackbelt.report import Block, Curves

if TYPE_CHECKING:
    from blackbelt.doctor.run import Run

GROWTH = 1.08  # of the number of steps between one point and the next


@dataclass
class Curve:
    """What was measured of one optimizer: the numbers of its steps, and three figures for each."""

    name: str
    steps: list[int] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    update_ratios: list[float] = field(default_factory=list)  # ‖what the step added‖ / ‖parameters before it‖
    rates: list[float] = field(default_factory=list)  # of the first group of parameters


class Recorder(Rule):
    """Listens as a rule does, and concludes nothing."""

    code: ClassVar[str] = "curves"
    title: ClassVar[str] = "curves of a training"

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.curves: list[Curve] = []
        self._of: weakref.WeakKeyDictionary[torch.optim.Optimizer, Curve] = weakref.WeakKeyDictionary()
        self._before: list[Tensor] = []  # only between the beginning and the end of one step

    def step_begins(self, step: Step) -> Findings:
        curve = self._of.get(step.optimizer)
        if curve is None:
            curve = self._of[step.optimizer] = Curve(type(step.optimizer).__name__)
            self.curves.append(curve)
        is_due = self.run.traced or not curve.steps or step.number >= GROWTH * curve.steps[-1]
        self._before = [head(p).clone() for p in step.parameters] if is_due else []
        if is_due:
            gradients = [head(p.grad) for p in step.parameters if p.grad is not None and not p.grad.is_sparse]
            curve.gradient_norms.append(_norm(gradients))
        return ()

    def step_ends(self, step: Step) -> Findings:
        curve = self._of.get(step.optimizer)
        if curve is None or not self._before or len(curve.gradient_norms) == len(curve.steps):
            return ()
        before, self._before = self._before, []
        moved = [head(p) - old for p, old in zip(step.parameters, before)]
        curve.steps.append(step.number)
        curve.update_ratios.append(_norm(moved) / max(_norm(before), 1e-12))
        curve.rates.append(float(step.optimizer.param_groups[0].get("lr", 0.0)))
        return ()


def plots(curves: Sequence[Curve]) -> Iterator[Block]:
    """Draw them: one plot a figure, one line an optimizer. Nothing for trainings of fewer than three steps."""
    shown = [curve for curve in curves if len(curve.steps) > 2]
    names = [curve.name if len(shown) == 1 else f"{curve.name} {n}" for n, curve in enumerate(shown, 1)]
    figures: Mapping[str, str] = {
        "gradient_norms": "norm of the gradient",
        "update_ratios": "norm of update / of parameters",
        "rates": "learning rate",
    }
    for attribute, label in figures.items():
        lines = {}
        for name, curve in zip(names, shown):
            pairs = [(x, y) for x, y in zip(curve.steps, getattr(curve, attribute)) if 0 < y < float("inf")]
            if pairs:
                lines[name] = ([x for x, _ in pairs], [y for _, y in pairs])
        if lines:
            yield Curves(lines, "optimizer step", label, title=label, small=True)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([t.float().norm() for t in tensors]).norm()) if tensors else 0.0
