"""Belts: white at the start, and one for each numbered module whose katas are all solved, in the order of the modules.

Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from blackbelt.dojo.catalog import KataEntry, LessonEntry, lessons

BELTS = ("white", "yellow", "orange", "green", "blue", "brown", "black")


@dataclass(frozen=True)
class Module:
    """The lessons of one module, and the belt that its katas earn: "" where it has a letter for a ``number``."""

    number: str
    name: str
    lessons: tuple[LessonEntry, ...]

    @property
    def belt(self) -> str:
        return BELTS[min(int(self.number), len(BELTS) - 1)] if self.number.isdigit() else ""

    @property
    def katas(self) -> tuple[KataEntry, ...]:
        return tuple(kata for lesson in self.lessons for kata in lesson.katas)


@dataclass(frozen=True)
class NextStep:
    """The one thing to do now: a lesson, and the first kata of it that is open (none where it has no katas)."""

    lesson: LessonEntry
    kata: KataEntry | None
    num_open: int


def modules() -> tuple[Module, ...]:
    """Return the modules of the course, in order."""
    groups = itertools.groupby(lessons(), key=lambda entry: (entry.number.split(".")[0], entry.module))
    return tuple(Module(number, name, tuple(entries)) for (number, name), entries in groups)


def belt(solved: Collection[str]) -> str:
    """Return the belt of a learner who solved these katas: that of the last module solved without a gap before it."""
    worn = BELTS[0]
    for module in modules():
        if not module.belt or not module.katas or open_katas(module.katas, solved):
            break
        worn = module.belt
    return worn


def next_step(solved: Collection[str]) -> NextStep | None:
    """Return the first lesson with an open kata, or None where all are solved."""
    for entry in lessons():
        still_open = open_katas(entry.katas, solved)
        if still_open:
            return NextStep(entry, still_open[0], len(still_open))
    return None


def open_katas(katas: Sequence[KataEntry], solved: Collection[str]) -> list[KataEntry]:
    """Return those of ``katas`` that are not among the names in ``solved``."""
    return [kata for kata in katas if kata.name not in solved]
