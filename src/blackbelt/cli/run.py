"""`blackbelt run`: do the claims of a lesson hold on this machine?"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from blackbelt.cli._output import WIDTH, say, say_json, warn

if TYPE_CHECKING:
    from blackbelt.dojo.execution import LessonRun


def run(
    lesson: Annotated[list[str] | None, typer.Argument(help="Lessons, by number or name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run every lesson.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many lessons run at the same time.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Execute lessons without a browser and report which of their claims hold on this machine.

    The executed notebook and the ledger of its claims are kept in the workspace's runs/ folder. Exits with 1 where a
    claim is false or a cell fails.

    Examples:
      blackbelt run strides        one lesson
      blackbelt run 1.1 1.3        two, at the same time
      blackbelt run --all --json   everything, for a program to read
    """
    from blackbelt.cli._progress import CellProgress
    from blackbelt.dojo.catalog import lessons
    from blackbelt.dojo.execution import run_lessons
    from blackbelt.dojo.naming import find_lesson
    from blackbelt.dojo.workspace import workspace_folder

    if bool(lesson) == every:
        raise typer.BadParameter("name the lessons to run, or pass --all; `blackbelt list` shows their names")
    chosen = list(lessons()) if every else list(dict.fromkeys(find_lesson(name) for name in lesson or ()))
    tell = (lambda _: None) if json else say_run
    with CellProgress(len(chosen), tell, stderr=json) as listener:
        runs = run_lessons(chosen, workspace_folder() / "runs", jobs=jobs, listener=listener)
    if json:
        say_json([one.to_dict() for one in runs])
    false = sum(len(one.false) for one in runs)
    failed = sum(one.failure is not None for one in runs)
    if false or failed:
        claims = f"{false} false {'claim' if false == 1 else 'claims'}"
        warn(f"{claims}, {failed} of {len(runs)} lessons stopped by an error")
        raise typer.Exit(1)


def say_run(one: LessonRun) -> None:
    """Print what one lesson showed."""
    sign, color = ("✓", "green") if one.ok else ("✗", "red")
    name = one.lesson.rpartition("/")[2]
    say(f"{sign} {one.number} {name}: {one.seconds:.1f} s", bold=True, color=color)
    say(
        f"  claims: {len(one.shown)} shown, {len(one.not_shown)} not shown here, {len(one.false)} false; "
        f"predictions: {len(one.predictions)}"
    )
    for sentence in one.not_shown:
        _say_item("not shown here", sentence)
    for sentence in one.false:
        _say_item("FALSE", sentence)
    if one.failure:
        _say_item(f"cell {one.failure.cell} failed", one.failure.message)
        say(textwrap.indent(_shortened(one.failure.source), "      | "))
    say(f"  notebook: {one.notebook_path}")
    if one.ledger_path.exists():
        say(f"  ledger:   {one.ledger_path}")


def _say_item(kind: str, sentence: str) -> None:
    say(textwrap.fill(f"{kind}: {sentence}", WIDTH, initial_indent="  ", subsequent_indent="      "))


def _shortened(source: str, lines: int = 12) -> str:
    kept = source.splitlines()
    return "\n".join(kept if len(kept) <= lines else [*kept[:lines], f"… ({len(kept) - lines} more lines)"])
