"""The backward pass itself: what it allocates, what it need not compute, what it must not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.autograd.function import BackwardCFunction

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import OperatorWatch, Trial, seeded, tensors_in
from blackbelt.measurement import allocation
from blackbelt.report import format_bytes


@dataclass(frozen=True)
class StepAllocates(Law):
    """Forward and backward together allocate at most ``at_most(*arguments)`` bytes at their peak, gradients included.

    Backward starts from the sum of the result. ``slack`` bytes on top allow for the scalars that operators wrap.
    """

    at_most: Callable[..., int]
    slack: int = 2048

    why: ClassVar[str] = "What forward spares and backward allocates is not spared: a step has one peak."

    def check(self, trial: Trial) -> None:
        def step(*arguments: Any) -> Any:
            return _gradients(trial.function(*arguments).sum(), arguments)

        budget = self.at_most(*trial.case.arguments)
        arguments = trial.case.fresh()
        with seeded():
            step(*trial.case.fresh())  # warms up
            peak = allocation(step, *arguments).peak_bytes
        if peak > budget + self.slack:
            raise LawBroken(
                f"Forward and backward allocate {format_bytes(peak)} at their peak; the budget is "
                f"{format_bytes(budget)}",
                f"at most {format_bytes(budget)}",
                format_bytes(peak),
            )


@dataclass(frozen=True)
class SkipsUnneeded(Law):
    """Backward dispatches fewer operators once the tensor at ``argument`` does not require grad."""

    argument: int

    why: ClassVar[str] = "A frozen weight's gradient costs as much as any other, and is thrown away."

    def check(self, trial: Trial) -> None:
        needed, frozen = (self._operators(trial, requires_grad) for requires_grad in (True, False))
        if frozen >= needed:
            raise LawBroken(
                f"Backward works as much when argument {self.argument} needs no gradient",
                f"fewer than {needed} operators",
                f"{frozen} operators",
            )

    def _operators(self, trial: Trial, requires_grad: bool) -> int:
        arguments = trial.case.fresh()
        arguments[self.argument].requires_grad_(requires_grad)
        with seeded():
            result = trial.function(*arguments)
            given, node, total = torch.ones_like(result), result.grad_fn, result.sum()
            with torch.no_grad(), OperatorWatch() as watch:
                if isinstance(node, BackwardCFunction):
                    node.apply(given)  # the engine would add its own reduction to what it counts
                else:
                    _gradients(total, arguments)
        return int(sum(watch.seen.values()))


@dataclass(frozen=True)
class LeavesGradOutput(Law):
    """Backward does not change the gradient that it is given."""

    why: ClassVar[str] = "Autograd hands one gradient tensor to several nodes; who writes to it falsifies the others'."

    def check(self, trial: Trial) -> None:
        arguments = trial.case.fresh()
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        with seeded():
            result = trial.function(*arguments)
            if not result.requires_grad:
                return
            result.register_hook(lambda given: seen.append((given, given.clone())))
            _gradients(_weighted(result), arguments)
        for given, kept in seen:
            if not torch.equal(given, kept):
                raise LawBroken("Its backward changed `grad_output` in place", describe(kept), describe(given))


@dataclass(frozen=True)
class GradientOfSum(Law):
    """The gradient of the result's sum is the reference's, in the arguments' own precision.

    Backward starts from ones here, so a backward that forgets `grad_output` passes: that is for `SameGradients` to
    find. A NaN is a NaN.
    """

    why: ClassVar[str] = "A wrong gradient raises nothing; the model only learns something else."

    def check(self, trial: Trial) -> None:
        expected, got = (self._gradients(trial, function) for function in (trial.kata.reference, trial.function))
        for index, (wanted, given) in enumerate(zip(expected, got)):
            if not torch.allclose(given, wanted, rtol=1e-3, atol=1e-5, equal_nan=True):
                which = "The gradient" if len(expected) == 1 else f"Gradient {index}"
                raise LawBroken(
                    f"{which} is wrong, even that of the sum of the result", describe(wanted), describe(given)
                )

    def _gradients(self, trial: Trial, function: Callable[..., Any]) -> tuple[torch.Tensor, ...]:
        arguments = trial.case.fresh()
        with seeded():
            result = function(*arguments)
        if not result.requires_grad:
            return tuple(torch.zeros_like(leaf) for leaf in _leaves(arguments))
        return torch.autograd.grad(result.sum(), _leaves(arguments), allow_unused=True, materialize_grads=True)


@dataclass(frozen=True)
class BackwardIsRecorded(Law):
    """With ``create_graph=True`` the gradient can be differentiated by the gradient that came in."""

    why: ClassVar[str] = "A gradient penalty needs backward to be an operation like any other."

    def check(self, trial: Trial) -> None:
        arguments = trial.case.fresh()
        with seeded():
            result = trial.function(*arguments)
        weight = numbers(tuple(result.shape), result.dtype).requires_grad_()
        gradients = torch.autograd.grad((result * weight).sum(), _leaves(arguments), create_graph=True)
        total = torch.stack([gradient.sum() for gradient in gradients]).sum()
        try:
            total.backward()  # into copies of our own
        except RuntimeError as error:
            raise LawBroken(
                "Backward cannot be differentiated", "a graph of backward", str(error).splitlines()[0]
            ) from None


def _leaves(arguments: tuple[Any, ...]) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(arguments) if tensor.requires_grad and tensor.is_leaf]


def _weighted(result: torch.Tensor) -> torch.Tensor:
    """Return a loss that sends in something else than ones, without the slow imports of explicit `grad_outputs`."""
    return (result * numbers(tuple(result.shape), result.dtype)).sum()


def _gradients(total: torch.Tensor, arguments: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(total, _leaves(arguments), allow_unused=True)
