"""``blackbelt env``: what this machine is, and what it can and cannot show."""

from __future__ import annotations

from typing import Annotated

import typer

from blackbelt.cli._output import say_json, show


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what this machine can and cannot show.

    Examples:
      blackbelt env
      blackbelt env --json
    """
    from blackbelt.dojo.environment import describe_environment

    report = describe_environment()
    if as_json:
        say_json(report.to_dict())
    else:
        show(report)
