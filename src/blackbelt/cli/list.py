"""``blackbelt list``: every lesson and kata by name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blackbelt.cli._output import say, say_json
from blackbelt.dojo.catalog import LessonEntry, lessons
from blackbelt.dojo.progress import open_progress


def list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List lessons and katas by name.

    The numbers and names are those that other commands take.

    Examples:
      blackbelt list
      blackbelt list --json
    """
    with open_progress() as progress:
        solved = progress.solved()
    if as_json:
        say_json([_as_dict(lesson, set(solved)) for lesson in lessons()])
        return
    for lesson in lessons():
        say(f"{lesson.number}  {lesson.slug:<24}  {lesson.plain_title}", bold=True)
        for kata in lesson.katas:
            mark = "solved" if kata.name in solved else ""
            say(f"     {kata.name:<30}  {kata.belt:<7} {kata.minutes:>3} min  {mark}".rstrip())


def _as_dict(lesson: LessonEntry, solved: set[str]) -> dict[str, Any]:
    katas = [
        {
            "name": kata.name,
            "title": kata.title,
            "belt": kata.belt,
            "minutes": kata.minutes,
            "solved": kata.name in solved,
        }
        for kata in lesson.katas
    ]
    return {"number": lesson.number, "name": lesson.slug, "title": lesson.title, "katas": katas}
