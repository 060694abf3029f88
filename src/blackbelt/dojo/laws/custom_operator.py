"""Operators that the learner's function registers and returns: values, gradients, ``opcheck``, compilation.

The function under trial takes the operator's name. Every check calls it once more, so that what is checked is what
this call registered, whoever had the name before.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar

import torch

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.strategies import numbers
from blackbelt.dojo.trial import Trial, seeded, storage_key
from blackbelt.report import format_bytes


@dataclass(frozen=True, kw_only=True)
class OperatorLaw(Law):
    """Base of the laws of this file: ``sample()`` makes the tensor that the operator is called with."""

    sample: Callable[[], torch.Tensor]

    def register(self, trial: Trial) -> Any:
        """Call the learner's function; return what it registered."""
        (name,) = trial.case.fresh()
        with seeded():
            operator = trial.function(name)
        if not hasattr(operator, "_opoverload") or operator._opoverload._schema.name != name:  # noqa: SLF001
            raise LawBroken(
                f"It returns no operator named `{name}`", "what `torch.library.custom_op` made", describe(operator)
            )
        return operator


@dataclass(frozen=True, kw_only=True)
class OperatorComputes(OperatorLaw):
    """The operator returns what ``oracle`` returns, and with ``gradient`` sends back what ``oracle`` sends back.

    ``weighted``: the gradient that comes in is not all ones.
    """

    oracle: Callable[[torch.Tensor], torch.Tensor]
    gradient: bool = False
    weighted: bool = False

    why: ClassVar[str] = "An operator is called from everywhere; its number is trusted everywhere."

    def check(self, trial: Trial) -> None:
        operator = self.register(trial)
        expected, got = (self._run(function) for function in (self.oracle, operator))
        what = "gradient" if self.gradient else "result"
        if got.shape != expected.shape or got.dtype != expected.dtype or not torch.allclose(got, expected, atol=1e-6):
            raise LawBroken(f"The operator's {what} is wrong", describe(expected), describe(got))

    def _run(self, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = self.sample().requires_grad_(self.gradient)
        y = function(x)
        if not self.gradient:
            return y
        weight = numbers(tuple(y.shape), y.dtype, seed=1) if self.weighted else torch.ones_like(y)
        try:
            return torch.autograd.grad((y * weight).sum(), x)[0]
        except RuntimeError as error:
            raise LawBroken("Backward through the operator fails", "a gradient", str(error).splitlines()[0]) from None


@dataclass(frozen=True, kw_only=True)
class OperatorChecks(OperatorLaw):
    """``torch.library.opcheck`` passes the named tests."""

    tests: tuple[str, ...]
    requires_grad: bool = True

    why: ClassVar[str] = "The compiler believes what an operator declares and never looks inside."

    def check(self, trial: Trial) -> None:
        operator = self.register(trial)
        x = self.sample().requires_grad_(self.requires_grad)
        try:
            with seeded():
                torch.library.opcheck(operator, (x,), test_utils=self.tests)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise LawBroken(
                f"`torch.library.opcheck` refuses it ({', '.join(self.tests)})", "opcheck passes", "\n".join(lines[:4])
            ) from None


@dataclass(frozen=True, kw_only=True)
class OperatorSaves(OperatorLaw):
    """The operator keeps at most ``at_most(x)`` bytes for backward besides its argument."""

    at_most: Callable[[torch.Tensor], int]

    why: ClassVar[str] = "What is saved for backward lives until backward runs, in every layer at once."

    def check(self, trial: Trial) -> None:
        operator = self.register(trial)
        x = self.sample().requires_grad_()
        saved: dict[int, int] = {}
        kept: list[torch.Tensor] = []  # a freed storage's address could be given out again

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor)
            if storage_key(tensor) != storage_key(x):
                saved[storage_key(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with seeded(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            operator(x)
        budget, total = self.at_most(x), sum(saved.values())
        if total > budget:
            raise LawBroken(
                f"It saves {format_bytes(total)} for backward; the budget is {format_bytes(budget)}",
                f"at most {format_bytes(budget)}",
                format_bytes(total),
            )


@dataclass(frozen=True, kw_only=True)
class OperatorCompiles(OperatorLaw):
    """``torch.compile(fullgraph=True)`` captures forward and backward of it (backend ``aot_eager``)."""

    why: ClassVar[str] = "An operator that breaks the graph has missed its purpose."
    costly: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        operator = self.register(trial)
        eager, compiled = (self.sample().requires_grad_() for _ in range(2))
        torch.compiler.reset()
        try:
            with seeded():
                expected = torch.autograd.grad(2 * operator(eager).sum(), eager)[0]
                got = torch.autograd.grad(_compiled(operator)(compiled), compiled)[0]
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise LawBroken("It does not compile into one graph", "no graph break", "\n".join(lines[:3])) from None
        if not torch.allclose(got, expected):
            raise LawBroken("Compiled, it has another gradient", describe(expected), describe(got))


def _compiled(operator: Any) -> Callable[[torch.Tensor], Any]:
    """Compile a small program around the operator, with globals of its own: the compiler writes into them."""

    def program(x: torch.Tensor) -> torch.Tensor:
        return 2 * operator(x).sum()  # type: ignore[no-any-return]

    alone = FunctionType(program.__code__, {"__builtins__": builtins}, program.__name__, None, program.__closure__)
    return torch.compile(alone, backend="aot_eager", fullgraph=True)
