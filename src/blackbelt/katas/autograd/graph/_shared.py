"""What several katas of this lesson use."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class Program:
    """A function that shows its code where it is printed. Each line binds a name; the last one binds ``out``."""

    parameters: str
    code: str

    def __call__(self, *values: Any) -> Any:
        names = dict(zip(self.parameters.split(), values), torch=torch, in_another_thread=in_another_thread)
        exec(_compiled(self.code), names)  # noqa: S102 - lines from this package
        return names["out"]

    def __repr__(self) -> str:
        return f"{', '.join(self.parameters.split())} -> {self.code}"


@functools.lru_cache(maxsize=512)
def _compiled(code: str) -> CodeType:
    return compile(code, "<program>", "exec")


@dataclass(frozen=True)
class Recorded:
    """An argument that is recorded anew for each call: autograd refuses to copy a tensor that has a graph.

    ``copy.deepcopy``, by which every call gets arguments of its own, runs the program on copies of the inputs and
    gives what it returns. Declare the argument in ``changes``: before the call it is this, afterwards a tensor.
    """

    program: Program
    inputs: tuple[Any, ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return torch.as_tensor(self.program(*copy.deepcopy(self.inputs, memo)))

    def __repr__(self) -> str:
        return f"`out` of `{self.program.code}`"


def in_another_thread(function: Callable[[], Any]) -> Any:
    """Call the function in a thread of its own and return what it returns."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@dataclass(frozen=True)
class Exactly(Law):
    """The reference's answer, exactly: names, counts and bytes, for which a second run in float64 says nothing."""

    why: ClassVar[str] = "A fast or elegant answer that is not the answer helps nobody."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        expected, got = trial.expected, trial.result
        if not isinstance(got, type(expected)):
            sentence = f"The result is {type(got).__name__}; {type(expected).__name__} was expected"
            raise LawBroken(sentence, describe(expected), describe(got))
        wrong = isinstance(expected, dict) and [key for key in {**expected, **got} if expected.get(key) != got.get(key)]
        if wrong:
            words = ", ".join(f"`{key}`" for key in wrong)
            raise LawBroken(f"The result is wrong for {words}", describe(expected), describe(got))
        if got != expected:
            raise LawBroken("The result is not what it should be", describe(expected), describe(got))


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a leaf that requires grad, numbers from the seed."""
    return numbers(shape, seed=seed).requires_grad_()


def recorded(code: str, **inputs: torch.Tensor | nn.Module) -> Recorded:
    """Return what ``code`` binds to ``out``, given inputs by name; without inputs, from the leaves ``x`` and ``y``."""
    given: dict[str, Any] = inputs or {"x": leaf(2, 3), "y": leaf(2, 3, seed=1)}
    return Recorded(Program(" ".join(given), code), tuple(given.values()))


OPERATIONS = ("{0} + {1}", "{0} * {1}", "{0}.tanh()", "{0}.relu()", "{0} * {1}.sum()", "({0} @ {1}.T) @ {0}")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Recorded]:
    """Argument tuples of one recorded tensor: up to eight operations on leaves and a constant, results used again."""
    names = ["x", "y", "c"]
    lines = []
    for name in "abdefghi"[: draw(st.integers(1, 8))]:
        one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        operation = draw(st.sampled_from(OPERATIONS))
        lines.append(f"{name} = {operation.format(one, other)}")
        names.append(name)
    inputs = {"x": leaf(2, 3), "y": leaf(2, 3, seed=1), "c": numbers((2, 3), seed=2)}
    return (recorded("; ".join([*lines, f"out = {names[-1]}.sum() * x.sum()"]), **inputs),)
