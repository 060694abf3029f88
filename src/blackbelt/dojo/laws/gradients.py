"""Gradients: backward agrees with finite differences, once and twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial, seeded, to_double


@dataclass(frozen=True)
class Gradcheck(Law):
    """``torch.autograd.gradcheck`` passes in float64 for the arguments at those positions."""

    arguments: Sequence[int] = (0,)

    why: ClassVar[str] = "A wrong gradient raises nothing; the model only learns something else."

    def check(self, trial: Trial) -> None:
        function, inputs = _differentiable(trial, self.arguments)
        _run(torch.autograd.gradcheck, function, inputs, "The gradient does not agree with finite differences")


@dataclass(frozen=True)
class DoubleBackward(Law):
    """``torch.autograd.gradgradcheck`` passes in float64 for the arguments at those positions."""

    arguments: Sequence[int] = (0,)

    why: ClassVar[str] = "Gradient penalties and Hessian products differentiate the backward pass itself."

    def check(self, trial: Trial) -> None:
        function, inputs = _differentiable(trial, self.arguments)
        _run(
            torch.autograd.gradgradcheck,
            function,
            inputs,
            "The second derivative does not agree with finite differences",
        )


def _differentiable(trial: Trial, positions: Sequence[int]) -> tuple[Any, tuple[torch.Tensor, ...]]:
    arguments = list(to_double(trial.case.fresh()))
    inputs = tuple(arguments[position].detach().clone().requires_grad_() for position in positions)

    def function(*tensors: torch.Tensor) -> Any:
        filled = list(arguments)
        for position, tensor in zip(positions, tensors):
            filled[position] = tensor
        return trial.function(*filled)

    return function, inputs


def _run(gradient_check: Any, function: Any, inputs: tuple[torch.Tensor, ...], sentence: str) -> None:
    try:
        with seeded():
            gradient_check(function, inputs)
    except Exception as error:
        words = str(error).strip().splitlines()
        raise LawBroken(sentence, "analytical equal to numerical", "\n".join(words[:8])) from None
