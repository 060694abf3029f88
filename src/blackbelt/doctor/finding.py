"""What a rule says: one defect, where its cause stands, what shows it, and what to write instead."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from blackbelt.places import Place


class Severity(enum.IntEnum):
    """How sure a finding is and what it costs: an error is proved, a warning likely, a note only suspicious."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One defect.

    ``message`` is one sentence; ``evidence`` are the figures that show it, by name; ``fix`` is code. ``step`` counts
    the optimizer steps that had been made when it was found. ``place`` is the line of the cause, None where no line of
    the user's code is it. ``ranks`` are the processes of a distributed training that found it, none where there is one.
    """

    code: str
    severity: Severity
    message: str
    place: Place | None
    fix: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    lesson: str = ""
    step: int = 0
    ranks: tuple[int, ...] = ()
