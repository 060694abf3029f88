"""`blackbelt build`: for authors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from blackbelt.cli._output import say, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blackbelt.dojo.catalog import LessonEntry


def build(
    lesson: Annotated[list[str] | None, typer.Argument(help="Lessons, by number or name; none: every lesson.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing: say what is wrong with the notebooks.")
    ] = False,
) -> None:
    """For authors: make the notebooks from lessons/ and execute them, or check those that are there.

    --check executes nothing. It fails where a notebook differs from its source, a cell failed or never ran, a claim is
    false, an output names a local path, a notebook is too large or has no source.

    Examples:
      blackbelt build strides   make and execute one notebook
      blackbelt build --check   are all notebooks what their sources say?
    """
    from blackbelt.dojo.catalog import course_root, lessons
    from blackbelt.dojo.naming import find_lesson
    from blackbelt.dojo.notebook_check import check_notebooks

    chosen = list(dict.fromkeys(find_lesson(name) for name in lesson)) if lesson else list(lessons())
    if not check:
        _build(chosen)
    problems = check_notebooks(chosen, None if lesson else course_root())
    for problem in problems:
        say(f"✗ {problem}")
    if problems:
        warn(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}")
        raise typer.Exit(1)
    say(f"✓ {len(chosen)} {'notebook is' if len(chosen) == 1 else 'notebooks are'} as the sources say")


def _build(chosen: Sequence[LessonEntry]) -> None:
    """Build one after the other, so that what one lesson measures is not disturbed by another."""
    import tempfile
    from pathlib import Path

    from blackbelt.cli._progress import CellProgress
    from blackbelt.dojo.catalog import PACKAGE, course_root
    from blackbelt.dojo.notebooks import BuildError
    from blackbelt.dojo.notebooks import build as build_lesson

    if PACKAGE in course_root().parents:
        raise BuildError(
            "this is an installed course, whose notebooks are made; build runs in a clone of the repository"
        )
    bars = CellProgress(len(chosen), lambda _: None)
    with tempfile.TemporaryDirectory(prefix="blackbelt-build-") as folder, bars:
        runs = [build_lesson(entry, Path(folder), bars) for entry in chosen]
    for entry, run in zip(chosen, runs):
        say(f"{entry.number} {entry.name}: {run.seconds:.1f} s, written to {entry.notebook_path}")
