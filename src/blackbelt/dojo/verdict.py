"""The verdict on a kata, as a report that travels between processes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blackbelt.report import Block, Code, Prose, Report, Table, Verdict, format_seconds

PASSED, FAILED, OPEN = "passed", "failed", "open"
_SHOWN_LINES = 20


@dataclass(frozen=True)
class KataReport(Report):
    """The verdict on one function. ``status``: ``passed``, ``failed`` or ``open`` (still the stub).

    ``sentence`` is what its author must be told; ``mistake`` names the known wrong solution it behaves like, if any.
    ``ending`` says how grading ended: ``graded``, or in a process of its own ``time``, ``crash``, ``memory``,
    ``processes``, ``exit`` …; ``printed`` is what the code printed there.
    """

    kata: str
    status: str
    sentence: str
    next_step: str = ""
    ending: str = "graded"
    printed: str = ""
    law: str = ""
    why: str = ""
    case: str = ""
    given: str = ""
    expected: str = ""
    got: str = ""
    observed: str = ""
    mistake: str = ""
    num_cases: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == PASSED

    def blocks(self) -> Iterator[Block]:
        if self.status == PASSED:
            cases = f" ({self.num_cases} cases in {format_seconds(self.seconds)})" if self.num_cases else ""
            yield Verdict(f"{self.kata} passed: {self.sentence}{cases}", True)
        elif self.status == OPEN:
            yield Verdict(f"{self.kata} is open: {self.sentence}", None)
        else:
            yield from self._failure()
        if self.next_step:
            yield Prose(f"Next: {self.next_step}")
        if self.printed:
            lines = self.printed.splitlines()
            more = [f"… {len(lines) - _SHOWN_LINES} more lines"] if len(lines) > _SHOWN_LINES else []
            yield Code("\n".join(lines[:_SHOWN_LINES] + more), title="Your code printed:")

    def _failure(self) -> Iterator[Block]:
        yield Verdict(f"{self.kata} failed: {self.sentence}", False)
        if self.given:
            rows = [("input", self.given), ("expected", self.expected), ("got", self.got)]
            heading = f"case: {self.case}" if self.case else "the smallest failing input found"
            yield Table(("", heading), [row for row in rows if row[1]])
        if self.observed:
            yield Prose(f"Observed: {self.observed}.")
        if self.why:
            yield Prose(f"Why it matters: {self.why}")


def failed(kata: str, ending: str, sentence: str, next_step: str, printed: str = "") -> KataReport:
    """Return the verdict on code that could not be graded to the end."""
    return KataReport(kata, FAILED, sentence, next_step, ending, printed)
