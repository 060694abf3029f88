"""``blackbelt start``: a lesson, open in JupyterLab."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import webbrowser
from typing import Annotated

import typer

from blackbelt.cli._output import say, warn
from blackbelt.cli._server import ServerError, jupyterlab
from blackbelt.dojo.belts import next_step
from blackbelt.dojo.catalog import LessonEntry, lessons
from blackbelt.dojo.naming import find_lesson
from blackbelt.dojo.progress import open_progress
from blackbelt.dojo.workspace import copy_lesson, workspace_folder


def start(
    lesson: Annotated[str | None, typer.Argument(help="Its number or name; without, the next one.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The server's port; without, a free one.")] = None,
) -> None:
    """Open a lesson in JupyterLab.

    Copies the lesson to your own folder, where a newer course is merged into what you wrote, starts JupyterLab there
    and prints the address, with its token. Ctrl-C ends it.

    Examples:
      blackbelt start
      blackbelt start 1.2
      blackbelt start strides --no-browser --port 8890
    """
    entry = find_lesson(lesson) if lesson else _next_lesson()
    if importlib.util.find_spec("jupyterlab") is None:
        raise ServerError(f"JupyterLab is not installed for {sys.executable}; try `uv pip install jupyterlab`")
    path = copy_lesson(entry, warn)
    say(f"Lesson {entry.number} {entry.plain_title}: {path}")
    say("JupyterLab is starting …")
    folder = workspace_folder()
    with jupyterlab(folder, port) as server:
        url = server.url_of(path.relative_to(folder).as_posix())
        say("Open this address; it holds the token. Ctrl-C here ends JupyterLab.")
        say(f"  {url}")
        if not no_browser and _has_browser():
            webbrowser.open(url)
        server.wait()
    say("JupyterLab has ended.")


def _next_lesson() -> LessonEntry:
    with open_progress() as progress:
        step = next_step(progress.solved())
    return step.lesson if step else lessons()[0]


def _has_browser() -> bool:
    """Whether a window can open. On Linux without a display, `webbrowser` would start one in this very terminal."""
    if platform.system() == "Linux":
        return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return True
