"""Averaged copies of a model (EMA, SWA) that are evaluated in its place."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from torch import Tensor, nn

from blackbelt.doctor.events import ModuleCall
from blackbelt.doctor.rules._ranks import digest, sampled
from blackbelt.doctor.run import Run

REMEMBERED = 64  # steps at which a model was evaluated


@dataclass(eq=False)
class Evaluated:
    """A model that was called in evaluation mode and without gradients."""

    model: weakref.ref[nn.Module]
    name: str
    first: str  # hash of its parameters at its first evaluation
    moved: bool = False
    steps: set[int] = field(default_factory=set)


class Evaluations:
    """Which models a run evaluates."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._known: dict[int, Evaluated] = {}

    def hear(self, call: ModuleCall) -> None:
        """Take note of a call that no other module made."""
        model = call.module
        if call.depth or call.grad_enabled or model.training or len(steps := self._steps(model)) >= REMEMBERED:
            return
        if self.run.num_steps in steps:
            return
        parameters = list(model.parameters())
        if parameters:
            steps.add(self.run.num_steps)
            known = self._known[id(model)]
            known.moved |= digest(sampled(parameters)) != known.first

    def _steps(self, model: nn.Module) -> set[int]:
        known = self._known.get(id(model))
        if known is None or known.model() is not model:
            first = digest(sampled(list(model.parameters())))
            known = self._known[id(model)] = Evaluated(weakref.ref(model), type(model).__name__, first)
        return known.steps

    def averaged(self) -> list[tuple[Evaluated, list[Tensor]]]:
        """Return the averaged models, each with the parameters of the trained one it stands for.

        They are evaluated now and then, move without an optimizer, and no trained model is evaluated.
        """
        trained = self.run.trained()
        models = [(known, model) for known in self._known.values() if (model := known.model()) is not None]
        own = [known for known, model in models if any(id(p) in trained for p in model.parameters())]
        if own:
            return []
        found = []
        for known, model in models:
            sizes = [tuple(p.shape) for p in model.parameters()]
            is_rare = 2 * len(known.steps) <= self.run.num_steps
            stands_for: list[list[Tensor]] = [
                list(other.parameters())
                for other in self.run.models
                if [tuple(p.shape) for p in other.parameters()] == sizes
                and any(id(p) in trained for p in other.parameters())
            ]
            if known.moved and is_rare and len(known.steps) > 1 and stands_for:
                found.append((known, stands_for[0]))
        return found
