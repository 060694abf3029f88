"""What ``check`` and ``watch`` share: which katas are meant, and verdicts that are recorded before they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbelt.dojo.catalog import LessonEntry, katas, lessons
from blackbelt.dojo.naming import find, find_lesson
from blackbelt.dojo.progress import NotSavedError, open_progress
from blackbelt.dojo.workspace import lesson_path, workspace_folder

if TYPE_CHECKING:
    from blackbelt.dojo.isolation import Workers
    from blackbelt.dojo.slicing import Document, Slice
    from blackbelt.dojo.verdict import KataReport


class NothingToCheckError(ValueError):
    """No kata was named, and none was found."""

    exit_code = 2


@dataclass(frozen=True)
class Target:
    """Katas in a file. ``is_one``: one kata was asked for by name."""

    path: Path
    katas: tuple[str, ...]
    is_one: bool


@dataclass(frozen=True)
class Outcome:
    """A verdict, and whether it is on the disk. ``problem`` says why it is not, though it should be."""

    report: KataReport
    saved: bool = False
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "saved": self.saved}


def find_target(name: str | None, file: Path | None) -> Target:
    """Return what was asked for: a lesson, a kata or a file; by default the lesson that was saved last.

    Raises ValueError subclasses for unknown names and files that cannot be read.
    """
    if name is not None and file is None and Path(name).suffix in (".ipynb", ".py") and Path(name).is_file():
        return _of_file(Path(name))
    if name is None:
        if file is not None:
            return _of_file(file)
        lesson = _latest_lesson()
        return Target(lesson_path(lesson), tuple(kata.name for kata in lesson.katas), is_one=False)
    entry = find(name)
    if isinstance(entry, LessonEntry):
        return Target(file or lesson_path(entry), tuple(kata.name for kata in entry.katas), is_one=False)
    return Target(file or lesson_path(find_lesson(entry.lesson)), (entry.name,), is_one=True)


def read_target(target: Target) -> Document:
    """Read the target's file. Raises ValueError subclasses where it holds none of the katas."""
    from blackbelt.dojo.slicing import read_document

    document = read_document(target.path)
    if not target.is_one and not any(document.defines(name) for name in target.katas):
        expected = ", ".join(target.katas) or "the katas of a lesson"
        raise NothingToCheckError(
            f"{target.path.name} has no kata cells; expected one of {expected}. "
            "`blackbelt start LESSON` brings a lesson's cells back"
        )
    return document


def grade(
    workers: Workers, document: Document, target: Target, kata: str, *, place: str, seconds: float, more: bool
) -> Outcome:
    """Grade one kata of the document and record the verdict. A kata without code to grade is not recorded.

    Raises ValueError subclasses only where this one kata was asked for by name.
    """
    from blackbelt.dojo.slicing import WorkspaceFileError
    from blackbelt.dojo.verdict import OPEN, KataReport, failed

    if not target.is_one and not document.defines(kata):
        return Outcome(KataReport(kata, OPEN, f"{document.path.name} does not define it", ending="file"))
    try:
        cut = document.cut(kata)
    except WorkspaceFileError as error:
        if target.is_one:
            raise
        return Outcome(failed(kata, "file", str(error), "Correct it, save, and check again."))
    report = workers.grade(cut, seconds=seconds, more=more)
    if report.status == OPEN:
        return Outcome(report)
    return _record(report, cut, place)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return one line: how many passed, failed and are open, and whether that is saved."""
    counts = {status: sum(o.report.status == status for o in outcomes) for status in ("passed", "failed", "open")}
    text = f"{counts['passed']} of {len(outcomes)} passed, {counts['failed']} failed, {counts['open']} open."
    if any(outcome.problem for outcome in outcomes):
        return f"{text} Not everything was saved."
    return f"{text} Saved." if any(outcome.saved for outcome in outcomes) else text


def _record(report: KataReport, cut: Slice, place: str) -> Outcome:
    """Record the verdict; ``watch`` does not repeat one that is recorded already."""
    source = cut.text
    try:
        with open_progress() as progress:
            if place == "watch":
                last = progress.attempts(cut.kata)[-1:]
                if last and (last[0].source, last[0].passed) == (source, report.passed):
                    return Outcome(report, saved=True)
            progress.record_attempt(cut.kata, report.passed, report.sentence, source, place)
    except NotSavedError as error:
        return Outcome(report, problem=str(error))
    return Outcome(report, saved=True)


def _of_file(file: Path) -> Target:
    from blackbelt.dojo.slicing import read_document

    document = read_document(file)
    return Target(file, tuple(kata.name for kata in katas() if document.defines(kata.name)), is_one=False)


def _latest_lesson() -> LessonEntry:
    saved = [(lesson_path(lesson).stat().st_mtime, lesson) for lesson in lessons() if lesson_path(lesson).is_file()]
    if not saved:
        raise NothingToCheckError(
            f"no lesson is in {workspace_folder()} yet; expected a saved notebook. `blackbelt start` copies the first "
            "one, or name a file: `blackbelt check KATA FILE`"
        )
    return max(saved, key=lambda pair: pair[0])[1]
