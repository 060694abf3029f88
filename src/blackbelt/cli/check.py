"""``blackbelt check``: grade what is saved, in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blackbelt.cli import FAILED, REFUSED
from blackbelt.cli._output import say, say_json, show, warn


def check(
    name: Annotated[str | None, typer.Argument(metavar="[LESSON|KATA]", help="A lesson or a kata.")] = None,
    file: Annotated[Path | None, typer.Argument(help="A notebook or Python file; default: your copy.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time limit for one kata.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Grade your saved answers, each in a process of its own with limits on time and memory.

    Without arguments: every kata of the lesson you saved last. The exit code is 0 when every kata checked has passed, 1
    when one failed or is open, 2 for an unknown name or a file that cannot be graded, 3 when a verdict cannot be saved.

    Examples:
      blackbelt check
      blackbelt check strides
      blackbelt check can_view my_answers.py
    """
    from blackbelt.dojo.isolation import Workers

    with Workers() as workers:  # first of all: torch is imported over there while names and files are read here
        from blackbelt.cli._grading import find_target, grade, read_target, summary

        target = find_target(name, file)
        document = read_target(target)
        outcomes = []
        for number, kata in enumerate(target.katas, 1):
            more = number < len(target.katas)
            outcome = grade(workers, document, target, kata, place="check", seconds=seconds, more=more)
            outcomes.append(outcome)
            if not as_json:
                show(outcome.report)
                say()
            if outcome.problem:
                warn(outcome.problem)
    if as_json:
        say_json({"file": str(target.path), "katas": [outcome.to_dict() for outcome in outcomes]})
    else:
        say(summary(outcomes), bold=True)
    if not all(outcome.report.passed for outcome in outcomes):
        raise typer.Exit(FAILED)
    if any(outcome.problem for outcome in outcomes):
        raise typer.Exit(REFUSED)
