"""``blackbelt solution``: ours, after yours passes."""

from __future__ import annotations

from typing import Annotated

import typer

from blackbelt.cli._output import say, warn
from blackbelt.dojo.naming import find_kata
from blackbelt.dojo.progress import NotSavedError, open_progress


class NotSolvedError(ValueError):
    """The solution was asked for before a pass, and without giving up."""

    exit_code = 1


def solution(
    kata: Annotated[str, typer.Argument(help="The kata's name.")],
    give_up: Annotated[bool, typer.Option("--give-up", help="Show it before you solved it. This is recorded.")] = False,
) -> None:
    """Show our solution of a kata.

    Of one that you solved; or of one that you give up, which is recorded.

    Examples:
      blackbelt solution can_view
      blackbelt solution can_view --give-up
    """
    entry = find_kata(kata)
    with open_progress() as progress:
        is_solved = entry.name in progress.solved()
        if not is_solved and not give_up:
            raise NotSolvedError(
                f"`{entry.name}` is not solved yet; our solution is shown after a pass. Try `blackbelt hint "
                f"{entry.name}`, or `blackbelt solution {entry.name} --give-up`, which is recorded"
            )
        say(entry.solution)
        try:
            progress.record_solution(entry.name, gave_up=not is_solved)
        except NotSavedError as error:
            warn(str(error))
