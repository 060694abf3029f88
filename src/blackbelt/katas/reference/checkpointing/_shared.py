"""What several katas of this lesson use: laws about a whole training step, and models to run them on."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd.profiler import profile

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import OperatorWatch, Trial, seeded, tensors_in
from blackbelt.report import format_bytes

SLACK = 1024  # bytes: scalars that operators wrap, and states of generators
CHECKPOINTING = ("torch/utils/checkpoint.py", "blackbelt/reference/checkpointing/")


@dataclass(frozen=True)
class Holds(Law):
    """When forward has returned, at most ``at_most(*arguments)`` bytes that it allocated are still there.

    The result counts, and so does whatever its graph, a hook or a closure keeps.
    """

    at_most: Callable[..., int]

    why: ClassVar[str] = "What forward leaves in memory stays there until backward comes by, in every layer at once."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        arguments = trial.case.fresh()
        with seeded(), _no_collection(), profile(use_cpu=True, profile_memory=True) as profiler:
            result = trial.function(*arguments)
        held = _bytes_left(profiler)
        del result
        if held > budget + SLACK:
            raise LawBroken(
                f"After forward {format_bytes(held)} are held; the budget is {format_bytes(budget)}",
                f"at most {format_bytes(budget)}",
                format_bytes(held),
            )


@dataclass(frozen=True)
class LeavesNothing(Law):
    """When the result of a forward is dropped, and no backward has run, nothing that forward allocated is left.

    Python's collector may run: what it cannot free is a circle through the graph, which is C++.
    """

    why: ClassVar[str] = "What one step leaves behind, a thousand steps leave a thousand times."

    def check(self, trial: Trial) -> None:
        arguments = trial.case.fresh()
        with seeded(), _no_collection(), profile(use_cpu=True, profile_memory=True) as profiler:
            result = trial.function(*arguments)
            del result
            gc.collect()
        left = _bytes_left(profiler)
        if left > SLACK:
            raise LawBroken(
                f"A forward whose result is dropped leaves {format_bytes(left)} behind", "nothing", format_bytes(left)
            )


@dataclass(frozen=True)
class StepRuns(Law):
    """Forward and backward together dispatch ``operator`` at most ``at_most(*arguments)`` times."""

    operator: str
    at_most: Callable[..., int]

    why: ClassVar[str] = "Checkpointing buys memory with one more forward pass. A second one is wasted."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        arguments = trial.case.fresh()
        with seeded(), OperatorWatch() as watch:
            backward(trial.function(*arguments))
        if watch.seen[self.operator] > budget:
            raise LawBroken(
                f"A step runs `{self.operator}` {watch.seen[self.operator]} times; {budget} are enough",
                f"at most {budget} times",
                f"{watch.seen[self.operator]} times",
            )


@dataclass(frozen=True)
class BuildsItself(Law):
    """No line of ``torch/utils/checkpoint.py``, or of the course's own checkpoint, runs in forward or backward."""

    why: ClassVar[str] = "The exercise is to build the mechanism, not to call it."

    def check(self, trial: Trial) -> None:
        seen: list[str] = []

        def watch(frame: FrameType, event: str, _: Any) -> None:
            path = frame.f_code.co_filename.replace("\\", "/")
            if event == "call" and any(part in path for part in CHECKPOINTING):
                seen.append(frame.f_code.co_name)

        arguments, before = trial.case.fresh(), sys.getprofile()
        sys.setprofile(watch)
        try:
            with seeded(), contextlib.suppress(Exception):  # what goes wrong there is another law's business
                backward(trial.function(*arguments))
        finally:
            sys.setprofile(before)
        if seen:
            raise LawBroken("It calls a finished checkpoint", "your own hooks", f"`{seen[0]}` ran")


@dataclass(frozen=True)
class _Reruns(Law):
    """Base of laws about the runs of the function that backward causes; the kata's arguments are a function and x."""

    def runs(self, trial: Trial) -> list[tuple[bool, bool]]:
        """Return for every run whether grad mode was on, and whether the input required grad."""
        function, x = trial.case.fresh()
        seen: list[tuple[bool, bool]] = []

        def spied(x: torch.Tensor) -> Any:
            seen.append((torch.is_grad_enabled(), x.requires_grad))
            return function(x)

        with seeded(), contextlib.suppress(Exception):
            backward(trial.function(spied, x))
        return seen


@dataclass(frozen=True)
class RerunsInGradMode(_Reruns):
    """Where backward runs the function again, grad mode is on."""

    why: ClassVar[str] = "Backward itself runs with grad mode off, and then no operation saves anything."

    def check(self, trial: Trial) -> None:
        if not all(grad_mode for grad_mode, _ in self.runs(trial)[1:]):
            raise LawBroken("Backward runs the function again with grad mode off", "grad mode on", "off")


@dataclass(frozen=True)
class RerunsFromTheInput(_Reruns):
    """Where backward runs the function again, its input requires grad exactly if ``x`` does."""

    why: ClassVar[str] = "What an operation saves depends on which of its inputs need a gradient."

    def check(self, trial: Trial) -> None:
        needed = trial.case.arguments[1].requires_grad
        if any(requires_grad is not needed for _, requires_grad in self.runs(trial)[1:]):
            raise LawBroken(
                "Backward runs the function again from another input",
                f"requires_grad={needed}, as x has",
                f"requires_grad={not needed}",
            )


def _bytes_left(profiler: profile) -> int:
    events = profiler.kineto_results.events() if profiler.kineto_results else []
    return sum(event.nbytes() for event in events if event.name() == "[memory]")  # type: ignore[attr-defined]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from freeing what others allocated before, which would count as freed here."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def backward(result: Any) -> None:
    """Walk back from the sum of the tensors in the result, into the leaves' ``.grad``."""
    outputs = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
    if outputs:
        torch.stack([tensor.sum() for tensor in outputs]).sum().backward()


def network(*layers: nn.Module) -> nn.Sequential:
    """Return the layers in a row, parameters fixed."""
    model = nn.Sequential(*layers)
    for index, parameter in enumerate(model.parameters()):
        parameter.data.copy_(numbers(tuple(parameter.shape), seed=index) / max(parameter.shape[-1], 1) ** 0.5)
    return model


def result_bytes(width: int) -> Callable[..., int]:
    """Return what the result of a model with ``width`` outputs weighs, as a function of the kata's arguments."""
    return lambda _, x: len(x) * width * x.element_size()
