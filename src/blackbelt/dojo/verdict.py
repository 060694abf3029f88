"""What a graded kata looks like outside the process that graded it. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from blackbelt import report
from blackbelt.report import Block, Code, Prose, Report, Verdict

PASSED, FAILED, OPEN = "passed", "failed", "open"
_SHOWN_LINES = 20


@dataclass(frozen=True)
class CheckReport(Report):
    """The verdict on one kata, with what the learner's code printed. ``status``: ``passed``, ``failed`` or ``open``.

    ``ending`` says how grading ended: ``graded``, or ``time``, ``crash``, ``memory``, ``processes``, ``exit`` …
    ``details`` are the facts of the grader's own report; ``shown`` is its layout.
    """

    kata: str
    status: str
    sentence: str
    next_step: str = ""
    ending: str = "graded"
    printed: str = ""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    shown: tuple[Block, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        return self.status == PASSED

    def blocks(self) -> Iterator[Block]:
        if self.shown:
            yield from self.shown
        else:
            yield Verdict(f"{self.kata} {self.status}: {self.sentence}", self.passed)
            yield Prose(f"Next: {self.next_step}")
        if self.printed:
            lines = self.printed.splitlines()
            more = [f"… {len(lines) - _SHOWN_LINES} more lines"] if len(lines) > _SHOWN_LINES else []
            yield Code("\n".join(lines[:_SHOWN_LINES] + more), title="Your code printed:")

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if key != "shown"}


def failed(kata: str, ending: str, sentence: str, next_step: str, printed: str = "") -> CheckReport:
    """Return the verdict on code that could not be graded to the end."""
    return CheckReport(kata, FAILED, sentence, next_step, ending, printed)


def encode_blocks(blocks: Iterable[Block]) -> list[dict[str, Any]]:
    """Return blocks as JSON-ready dicts. Cells of tables become text; drawings are not part of a verdict."""
    encoded = []
    for block in blocks:
        fields = {item.name: getattr(block, item.name) for item in dataclasses.fields(block)}
        if isinstance(block, report.Table):
            fields["rows"] = [
                [cell if isinstance(cell, (int, float)) else str(cell) for cell in row] for row in block.rows
            ]
            fields["marked"] = sorted(block.marked)
        encoded.append({"block": type(block).__name__, **fields})
    return encoded


def decode_blocks(encoded: Iterable[dict[str, Any]]) -> tuple[Block, ...]:
    """Return the blocks that :func:`encode_blocks` took apart."""
    blocks = []
    for each in encoded:
        fields = {name: value for name, value in each.items() if name != "block"}
        if "marked" in fields:
            fields["marked"] = frozenset(fields["marked"])
        blocks.append(getattr(report, each["block"])(**fields))
    return tuple(blocks)
