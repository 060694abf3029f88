"""Operators: which may not run, and how many may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from blackbelt.dojo.laws import Law, LawBroken

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class Forbids(Law):
    """None of the named operators or functions runs.

    ``names`` maps a name to what to do without it. ATen operators are named as dispatched (``aten::bmm``), functions
    as they are called (``torch.functional.einsum``, ``torch.Tensor.repeat``).
    """

    names: Mapping[str, str]

    why: ClassVar[str] = "The exercise is to build the mechanism, not to call it."

    def check(self, trial: Trial) -> None:
        seen = trial.operators if any(name.startswith("aten::") for name in self.names) else {}
        called = trial.functions if any(not name.startswith("aten::") for name in self.names) else {}
        for name, instead in self.names.items():
            if name in seen or name in called:
                raise LawBroken(
                    f"It runs `{name}`, which this kata forbids: {instead}", f"no `{name}`", f"`{name}` ran"
                )


@dataclass(frozen=True)
class Calls(Law):
    """At most ``at_most`` operators are dispatched; ``each`` limits operators by name."""

    at_most: int | None = None
    each: Mapping[str, int] = field(default_factory=dict)

    why: ClassVar[str] = "Every dispatched operator costs a launch; a Python loop over elements costs thousands."

    def check(self, trial: Trial) -> None:
        total = sum(trial.operators.values())
        if self.at_most is not None and total > self.at_most:
            raise LawBroken(
                f"It dispatches {total} operators; {self.at_most} are enough",
                f"at most {self.at_most}",
                f"{total} operators",
            )
        for name, limit in self.each.items():
            if trial.operators[name] > limit:
                raise LawBroken(
                    f"It dispatches `{name}` {trial.operators[name]} times; the limit is {limit}",
                    f"`{name}` at most {limit} times",
                    f"{trial.operators[name]} times",
                )
