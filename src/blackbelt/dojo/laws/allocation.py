"""Allocation budget: bytes above the start at the worst moment of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.report import format_bytes

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class Allocates(Law):
    """The call allocates at most ``at_most(*arguments)`` bytes at its peak, the result included.

    ``slack`` bytes on top allow for the scalars that operators wrap.
    """

    at_most: Callable[..., int]
    slack: int = 1024

    why: ClassVar[str] = "Peak memory, not time, decides whether a size runs at all."

    def check(self, trial: Trial) -> None:
        budget = self.at_most(*trial.case.arguments)
        peak = trial.allocation.peak_bytes
        if peak > budget + self.slack:
            raise LawBroken(
                f"It allocates {format_bytes(peak)} at its peak; the budget is {format_bytes(budget)}",
                f"at most {format_bytes(budget)}",
                format_bytes(peak),
            )
