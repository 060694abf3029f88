"""What judges ``statistics_once``: what its model's buffers are after forward, and after a whole step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded
from blackbelt.katas.reference.checkpointing._shared import backward

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class StepStatistics(Law):
    """After forward and backward the model's buffers are those of a step without a checkpoint.

    ``counter`` limits the law to the counters of batches, or to all the rest.
    """

    counter: bool

    why: ClassVar[str] = "The running statistics are what the model computes with once it is in use."

    def check(self, trial: Trial) -> None:
        wanted, got = (self._after_a_step(trial, function) for function in (trial.kata.reference, trial.function))
        for name, buffer in wanted.items():
            if not torch.allclose(buffer.double(), got[name].double(), rtol=1e-5, atol=1e-7):
                raise LawBroken(
                    f"After a step `{name}` is not what it should be", describe(buffer), describe(got[name])
                )

    def _after_a_step(self, trial: Trial, function: Any) -> dict[str, torch.Tensor]:
        model, x = trial.case.fresh()
        with seeded():
            backward(function(model, x))
        return {name: buffer for name, buffer in model.named_buffers() if name.endswith(COUNTER) is self.counter}


class Counts(StepStatistics):
    """The same for the counters alone: a law of its own, since a mistake of its own breaks it."""

    why: ClassVar[str] = "With `momentum=None` the counter is the weight of the next batch."


@dataclass(frozen=True)
class ForwardCounts(Law):
    """Forward alone counts the batch."""

    why: ClassVar[str] = "Not every forward pass in training mode is followed by a backward."

    def check(self, trial: Trial) -> None:
        wanted, got = (self._counters(outcome.arguments[0]) for outcome in (trial.reference, trial.outcome))
        for name, count in wanted.items():
            if got[name] != count:
                raise LawBroken(f"After forward `{name}` is {got[name]}", str(count), str(got[name]))

    def _counters(self, model: nn.Module) -> dict[str, int]:
        return {name: int(buffer) for name, buffer in model.named_buffers() if name.endswith(COUNTER)}


@dataclass(frozen=True)
class StaysInTraining(Law):
    """Whenever the model runs, in forward or in backward, its norms are in training mode."""

    why: ClassVar[str] = "The recomputation must compute what forward computed."

    def check(self, trial: Trial) -> None:
        model, x = trial.case.fresh()
        modes: list[bool] = []
        for norm in norms_in(model):
            norm.register_forward_pre_hook(lambda norm, _: modes.append(norm.training))
        with seeded(), contextlib.suppress(Exception):  # what goes wrong there is another law's business
            backward(trial.function(model, x))
        if not all(modes):
            raise LawBroken("The model runs in evaluation mode", "training mode", "evaluation mode")


def norms_in(model: nn.Module) -> list[Any]:
    """Return the model's batch norms."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
