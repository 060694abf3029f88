"""What judges ``best_segments``: whether the cut is one, whether it is the best, and how much work it took to find."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar

from hypothesis import strategies as st

from blackbelt.dojo.describe import describe
from blackbelt.dojo.laws import Law, LawBroken
from blackbelt.dojo.trial import Trial

LONG = 40  # stages: half a trillion ways to cut them
STEPS = 40 * LONG**3  # bytecodes: generous for a solution that looks at every pair of cuts


def chains(max_stages: int = 6) -> st.SearchStrategy[tuple[list[int], list[int]]]:
    """Pairs of lists of one length: what the stages' inputs weigh, and what the stages save."""
    return st.integers(1, max_stages).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(1, 20), min_size=n, max_size=n), st.lists(st.integers(0, 60), min_size=n, max_size=n)
        )
    )


def peak_of(inputs: Sequence[int], saved: Sequence[int], starts: Sequence[int]) -> int:
    """Return the bytes at the worst moment of backward, as the kata ``peak_bytes`` defines them."""
    held = peak = 0
    for start, end in itertools.pairwise([*starts, len(saved)]):
        held += inputs[start]
        peak = max(peak, held + sum(saved[start:end]))
    return peak


def lowest_peak(inputs: Sequence[int], saved: Sequence[int]) -> int:
    """Return the lowest peak, by trying every cut there is."""
    later = range(1, len(saved))
    cuts = itertools.chain.from_iterable(itertools.combinations(later, number) for number in range(len(saved)))
    return min(peak_of(inputs, saved, (0, *cut)) for cut in cuts)


@dataclass(frozen=True)
class IsACut(Law):
    """The result is a list of ascending stage numbers, the first of them 0."""

    why: ClassVar[str] = "Every stage belongs to one segment."

    def check(self, trial: Trial) -> None:
        starts, num_stages = trial.result, len(trial.case.arguments[0])
        ascending = isinstance(starts, list) and all(type(start) is int for start in starts)
        if not ascending or starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= num_stages:
            raise LawBroken(
                "The result is no list of starts", f"[0, …], ascending, below {num_stages}", describe(starts)
            )


@dataclass(frozen=True)
class LowestPeak(Law):
    """No other cut has a lower peak: compared with all of them."""

    why: ClassVar[str] = "The peak decides whether the run starts at all; uniform segments fit uniform stages only."
    about_result: ClassVar[bool] = True

    def check(self, trial: Trial) -> None:
        inputs, saved = trial.case.arguments
        got, lowest = peak_of(inputs, saved, trial.result), lowest_peak(inputs, saved)
        if got != lowest:
            raise LawBroken(
                f"The peak of this cut is {got} bytes; there is one with {lowest}",
                f"{lowest} bytes, for example {describe(trial.expected)}",
                f"{got} bytes: {describe(trial.result)}",
            )


@dataclass(frozen=True)
class InPolynomialTime(Law):
    """For a chain of 40 stages the function executes at most 40 · 40³ bytecodes: counted, and stopped there."""

    why: ClassVar[str] = "A chain of n stages can be cut in 2ⁿ⁻¹ ways. Nobody waits for that at 40 layers."

    def check(self, trial: Trial) -> None:
        inputs, saved = ([factor * i % 97 + 1 for i in range(LONG)] for factor in (37, 61))
        left = STEPS

        def count(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "opcode":
                left -= 1
                if left < 0:
                    raise _TooLongError
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            trial.function(inputs, saved)
        except _TooLongError:
            sys.settrace(before)
            raise LawBroken(
                f"For {LONG} stages it is not done after {STEPS:,} steps", "work that grows like n² or n³", "far more"
            ) from None
        finally:
            sys.settrace(before)


class _TooLongError(BaseException):
    """Stops a function that tries everything; not an Exception, so that no handler of the function's own takes it."""
