"""``blackbelt progress``: what was solved, tried and predicted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blackbelt.cli._output import say, say_json, table
from blackbelt.dojo.belts import belt
from blackbelt.dojo.catalog import KataEntry, katas, lessons
from blackbelt.dojo.progress import Progress, open_progress


def progress(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show your belt and what you did.

    Katas solved, attempts, and predictions made and right.

    Examples:
      blackbelt progress
      blackbelt progress --json
    """
    with open_progress() as record:
        facts = _facts(record)
        place = record.path
    if as_json:
        say_json(facts)
        return
    solved = sum(kata["solved"] is not None for kata in facts["katas"])
    say(f"{facts['belt']} belt, {solved} of {len(facts['katas'])} katas solved", bold=True)
    say()
    keys = ("name", "solved", "katas", "attempts", "predictions", "right")
    rows = [tuple(lesson[key] for key in keys) for lesson in facts["lessons"]]
    for line in table([("lesson", *keys[1:]), *rows]):
        say(line)
    gave_up = [kata["name"] for kata in facts["katas"] if kata["gave_up"]]
    if gave_up:
        say()
        say(f"Solution seen before solving: {', '.join(gave_up)}")
    say()
    say(f"Kept in {place}")


def _facts(record: Progress) -> dict[str, Any]:
    solved = record.solved()
    return {
        "belt": belt(solved),
        "katas": [_kata_facts(kata, record) for kata in katas()],
        "lessons": [
            {
                "number": lesson.number,
                "name": lesson.slug,
                "katas": len(lesson.katas),
                "solved": sum(kata.name in solved for kata in lesson.katas),
                "attempts": sum(len(record.attempts(kata.name)) for kata in lesson.katas),
                "predictions": len(record.predictions(lesson.slug)),
                "right": sum(prediction.right for prediction in record.predictions(lesson.slug)),
            }
            for lesson in lessons()
        ],
    }


def _kata_facts(kata: KataEntry, record: Progress) -> dict[str, Any]:
    first_pass = record.solved().get(kata.name)
    return {
        "name": kata.name,
        "lesson": kata.lesson,
        "solved": first_pass.isoformat() if first_pass else None,
        "attempts": len(record.attempts(kata.name)),
        "hints": record.hints_shown(kata.name),
        "gave_up": kata.name in record.given_up(),
    }
