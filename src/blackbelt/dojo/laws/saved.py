"""Saved-for-backward budget: bytes that autograd keeps alive between forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.report import format_bytes

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class SavesForBackward(Law):
    """Autograd saves at most ``at_most(*arguments)`` bytes: each storage once, those of the arguments not counted."""

    at_most: Callable[..., int]

    why: ClassVar[str] = "What is saved for backward lives until backward runs, in every layer at once."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        if trial.saved_bytes > budget:
            raise LawBroken(
                f"It saves {format_bytes(trial.saved_bytes)} for backward; the budget is {format_bytes(budget)}",
                f"at most {format_bytes(budget)}",
                format_bytes(trial.saved_bytes),
            )
