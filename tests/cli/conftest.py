"""Commands, run in this process (quick) and as real processes (exit codes, signals, what is imported)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from blackbelt.cli._application import application

# Runs `main` with the tiny course in place of ours, and says on standard error whether torch was imported.
_LAUNCH = """
import atexit, sys
from pathlib import Path
from blackbelt.dojo import catalog
catalog.PACKAGE = Path(sys.argv.pop(1))
from blackbelt.cli import main
atexit.register(lambda: sys.stderr.write("torch was imported\\n" if "torch" in sys.modules else ""))
sys.argv[0] = "blackbelt"
main()
"""


@pytest.fixture
def invoke(tiny_course: Path):
    """Run a command in this process."""
    assert tiny_course

    def run(*arguments: str, answer: str | None = None):
        return CliRunner().invoke(application(), list(arguments), input=answer, env={"TERMINAL_WIDTH": "80"})

    return run


@pytest.fixture
def launch(tiny_course: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begin a command as a real process of its own."""
    begun: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _LAUNCH, str(tiny_course / "src" / "blackbelt"), *arguments]
        begun.append(
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return begun[-1]

    yield begin
    for process in begun:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()
