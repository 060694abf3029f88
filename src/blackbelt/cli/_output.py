"""How commands speak: in plain lines, for Rich takes longer to import than most commands take."""

from __future__ import annotations

import json
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from blackbelt.report import Report

WIDTH = 80


def say(text: str = "", *, bold: bool = False, color: str | None = None) -> None:
    """Print a line; the style is dropped where the output is no terminal."""
    typer.echo(typer.style(text, bold=bold or None, fg=color) if bold or color else text)


def say_wrapped(text: str, indent: str = "") -> None:
    """Print prose at 80 columns; code between fences, lists, tables and indented lines keep their lines."""
    paragraph: list[str] = []
    fenced = False

    def flush() -> None:
        if paragraph:
            say(textwrap.fill(" ".join(paragraph), WIDTH, initial_indent=indent, subsequent_indent=indent))
            paragraph.clear()

    for line in text.splitlines():
        is_fence = line.lstrip().startswith("```")
        if fenced or is_fence or not line.strip() or line.startswith((" ", "- ", "* ", "|", ">>>")):
            flush()
            say((indent + line).rstrip())
        else:
            paragraph.append(line)
        fenced ^= is_fence
    flush()


def warn(text: str) -> None:
    """Print a line on standard error."""
    typer.echo(text, err=True)


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show(report: Report) -> None:
    """Print a report: in color on a terminal, else as text at 80 columns."""
    if not sys.stdout.isatty():
        typer.echo(str(report))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(report.__rich__(), width=min(console.width, WIDTH))


def table(rows: list[tuple[object, ...]]) -> list[str]:
    """Return the rows as aligned lines, two spaces between the columns; numbers stand to the right."""
    texts = [[str(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    right = [all(isinstance(row[column], int) for row in rows[1:]) for column in range(len(texts[0]))]
    return [
        "  ".join(
            text.rjust(width) if is_right else text.ljust(width) for text, width, is_right in zip(row, widths, right)
        ).rstrip()
        for row in texts
    ]
