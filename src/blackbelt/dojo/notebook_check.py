"""Is every committed notebook the one its source says, executed, true, and free of anything local? Executes nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackbelt.dojo.catalog import KataEntry, LessonEntry, katas
from blackbelt.dojo.notebooks import BuildError, compose
from blackbelt.dojo.outputs import local_paths

LARGEST_NOTEBOOK_BYTES = 1_000_000
RAISES, WARNS = "raises-exception", "warns"  # tags with which a lesson says that a cell is meant to do so


@dataclass(frozen=True)
class Problem:
    """What is wrong with a notebook: ``where`` names lesson and cell, ``remedy`` is a command or what to change."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.remedy}"


def check_notebooks(
    lessons: Sequence[LessonEntry], root: Path | None = None, course_katas: Sequence[KataEntry] | None = None
) -> list[Problem]:
    """Return every problem of the lessons' notebooks and, given the course's ``root``, notebooks without a source."""
    known = katas() if course_katas is None else tuple(course_katas)
    problems = [problem for lesson in lessons for problem in check_notebook(lesson, known)]
    return problems + (list(_orphans(lessons, root)) if root else [])


def check_notebook(lesson: LessonEntry, course_katas: Sequence[KataEntry]) -> list[Problem]:
    """Return every problem of one lesson's notebook, the cells in order."""
    import nbformat

    rebuild = f"Run `blackbelt build {lesson.name}`"
    try:
        expected = compose(lesson, course_katas)
    except BuildError as error:
        return [Problem(lesson.slug, str(error), "Correct the lesson's source")]
    unplaced = [Problem(lesson.slug, what, remedy) for what, remedy in _unplaced_katas(lesson, expected, course_katas)]
    if not lesson.notebook_path.exists():
        return [*unplaced, Problem(lesson.slug, "it has no notebook", rebuild)]
    try:
        text = lesson.notebook_path.read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        return [
            *unplaced,
            Problem(lesson.slug, f"its notebook cannot be read ({type(error).__name__}: {error})", rebuild),
        ]
    differences = [Problem(where, what, rebuild) for where, what in _differences(lesson, expected, notebook)]
    findings = [Problem(where, what, remedy) for where, what, remedy in _findings(lesson, notebook, rebuild)]
    size = len(text.encode())
    if size > LARGEST_NOTEBOOK_BYTES:
        what = f"its notebook holds {size:,} bytes, more than {LARGEST_NOTEBOOK_BYTES:,}"
        findings.append(Problem(lesson.slug, what, "Show less, or draw it as SVG"))
    return unplaced + differences + findings


def _unplaced_katas(lesson: LessonEntry, expected: Any, course_katas: Sequence[KataEntry]) -> Iterator[tuple[str, str]]:
    placed = {cell.metadata.blackbelt.get("kata") for cell in expected.cells}
    for entry in course_katas:
        if entry.lesson == lesson.slug and entry.name not in placed:
            yield f"its kata {entry.name} is in no cell", f'Add `# %% kata="{entry.name}"` to {lesson.source_path.name}'


def _differences(lesson: LessonEntry, expected: Any, notebook: Any) -> Iterator[tuple[str, str]]:
    """Where the notebook's cells are not those of the source; the first line of a cell stands for it."""
    before, after = [_shipped(cell) for cell in expected.cells], [_shipped(cell) for cell in notebook.cells]
    source = f"lessons/{lesson.source_path.parent.name}/{lesson.source_path.name}"
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    for kind, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        if kind == "equal":
            continue
        if b_start < b_end:
            yield _where(lesson, notebook, b_start), f"it is not the cell that {source} has there"
        else:
            more = f", nor the {a_end - a_start - 1} behind it" if a_end - a_start > 1 else ""
            yield _where(lesson, expected, a_start), f"the notebook does not have this cell of {source}{more}"
    if notebook.metadata.get("blackbelt", {}).get("lesson") != lesson.slug:
        yield lesson.slug, "its notebook does not say which lesson it is"


def _shipped(cell: Any) -> tuple[Any, ...]:
    shipped = dict(cell.metadata.get("blackbelt", {}))
    return (
        cell.cell_type,
        cell.get("id"),
        cell.source,
        shipped.get("hash"),
        shipped.get("kata"),
        tuple(cell.metadata.get("tags", ())),
    )


def _findings(lesson: LessonEntry, notebook: Any, rebuild: str) -> Iterator[tuple[str, str, str]]:
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        where, tags = _where(lesson, notebook, index), cell.metadata.get("tags", ())
        if cell.source.strip() and cell.execution_count is None:
            yield where, "it never ran", rebuild
        for output in cell.outputs:
            if output.output_type == "error" and RAISES not in tags:
                yield where, f"it ended with {output.ename}: {output.evalue}", "Correct the lesson and build it again"
            if output.output_type == "stream" and output.name == "stderr" and WARNS not in tags:
                said = output.text.strip().splitlines()[:1]
                yield (
                    where,
                    f"it wrote to stderr: {' '.join(said)}",
                    f'Remove the cause, or tag the cell "{WARNS}" if it is the point',
                )
            for path in sorted(set(local_paths(output))):
                yield where, f"its output names a local path, {path}", "Show something that is true on every machine"
    claims = notebook.metadata.get("blackbelt", {}).get("claims")
    if claims is None:
        yield lesson.slug, "its notebook does not say which claims were shown", rebuild
    for text in (claims or {}).get("false", ()):
        yield lesson.slug, f"a claim is false: {text}", "Correct the claim, or what it rests on, and build again"


def _where(lesson: LessonEntry, notebook: Any, index: int) -> str:
    cell = notebook.cells[index]
    first = next((line.strip() for line in cell.source.splitlines() if line.strip()), "empty")
    return f"{lesson.slug}, cell {index + 1} ({first[:50]}{'…' if len(first) > 50 else ''})"


def _orphans(lessons: Sequence[LessonEntry], root: Path) -> Iterator[Problem]:
    known = {lesson.notebook_path for lesson in lessons}
    for path in sorted(root.glob("notebooks/**/*.ipynb")):
        if path not in known and ".ipynb_checkpoints" not in path.parts:
            yield Problem(
                str(path.relative_to(root)), "it has no source in lessons/", "Remove it, or restore its lesson"
            )
