"""Speed: a ratio against a baseline, both timed in turns in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.measurement import measure

if TYPE_CHECKING:
    from blackbelt.dojo.trial import Trial


@dataclass(frozen=True)
class FasterThan(Law):
    """The function takes at most ``1 / ratio`` of the time of ``baseline`` on the same arguments.

    Timings are noisy: the law gives a slow answer three chances, and a kata should ask for half of what its reference
    reaches.
    """

    baseline: Callable[..., Any]
    ratio: float

    why: ClassVar[str] = "The point of this exercise is the time it saves."
    costly: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        best = 0.0
        for _ in range(3):
            report = measure(inputs=trial.case.fresh, baseline=self.baseline, yours=trial.function)
            best = max(best, report.ratio("baseline", "yours"))
            if best >= self.ratio:
                return
        raise LawBroken(
            f"It is {best:.2f}× as fast as the baseline; {self.ratio:g}× was asked for",
            f"{self.ratio:g}×",
            f"{best:.2f}×",
        )
