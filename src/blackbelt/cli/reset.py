"""``blackbelt reset``: begin again."""

from __future__ import annotations

from typing import Annotated

import typer

from blackbelt.cli._output import say
from blackbelt.dojo.catalog import KataEntry
from blackbelt.dojo.naming import find
from blackbelt.dojo.progress import open_progress
from blackbelt.dojo.workspace import workspace_folder


class ResetError(ValueError):
    """Nothing, or two things, were named to be forgotten."""

    exit_code = 2


def reset(
    name: Annotated[str | None, typer.Argument(metavar="[LESSON|KATA]", help="What to forget.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget everything.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget what was recorded.

    About a kata, a lesson, or everything. Your notebooks stay as they are.

    Examples:
      blackbelt reset can_view
      blackbelt reset strides
      blackbelt reset --all --yes
    """
    if (name is None) != everything:
        passed = f"{name!r} and --all" if name else "nothing"
        raise ResetError(f"{passed} was passed; expected a lesson, a kata or --all; try `blackbelt reset strides`")
    katas: tuple[str, ...] | None = None
    lessons: tuple[str, ...] = ()
    what = "everything: attempts, predictions and hints of every lesson"
    if name is not None:
        entry = find(name)
        if isinstance(entry, KataEntry):
            katas, what = (entry.name,), f"the kata {entry.name}: attempts and hints"
        else:
            katas, lessons = tuple(kata.name for kata in entry.katas), (entry.slug,)
            what = f"lesson {entry.number} {entry.plain_title}: attempts, predictions and hints"
    if not yes:
        typer.confirm(f"Forget {what}?", abort=True)
    with open_progress() as progress:
        progress.reset(katas, lessons)
    say(f"Forgotten: {what}. Your notebooks are as they were, in {workspace_folder()}.")
