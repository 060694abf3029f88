"""``blackbelt hint``: one hint at a time."""

from __future__ import annotations

from typing import Annotated

import typer

from blackbelt.cli._output import say, say_wrapped, warn
from blackbelt.dojo.naming import find_kata
from blackbelt.dojo.progress import NotSavedError, open_progress


def hint(
    kata: Annotated[str, typer.Argument(help="The kata's name.")],
    show_all: Annotated[bool, typer.Option("--all", help="Show every hint.")] = False,
) -> None:
    """Show the next hint for a kata.

    The first is a nudge, the next a direction, the last the idea.

    Examples:
      blackbelt hint can_view
      blackbelt hint can_view --all
    """
    entry = find_kata(kata)
    num_hints = len(entry.hints)
    with open_progress() as progress:
        seen = progress.hints_shown(entry.name)
        last = num_hints if show_all else min(seen + 1, num_hints)
        for level in range(1 if show_all else last, last + 1):
            say(f"{entry.name}, hint {level} of {num_hints}", bold=True)
            say_wrapped(entry.hints[level - 1], indent="  ")
        if seen >= num_hints and not show_all:
            say(f"That was the last one. `blackbelt solution {entry.name} --give-up` shows our solution.")
        if last > seen:
            try:
                progress.record_hint(entry.name, last)
            except NotSavedError as error:
                warn(str(error))
