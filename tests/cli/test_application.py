"""What all commands share: found by folder, quick, one line and an exit code where they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from blackbelt import __version__, cli
from blackbelt.cli import BROKEN, MISUSED, REFUSED, STOPPED
from blackbelt.cli._application import command_names, guarded
from blackbelt.dojo.progress import ProgressError


@pytest.mark.parametrize("name", command_names())
def test_the_help_of_every_command_shows_an_example(invoke, name):
    done = invoke(name, "--help")
    assert done.exit_code == 0
    assert "\n  Example" in done.stdout
    assert f"\n    blackbelt {name if name != 'home' else ''}".rstrip() in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_file_is_a_command():
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py") if not path.name.startswith("_")}
    assert set(command_names()) == files
    assert files >= {"home", "start", "hint", "solution", "progress", "reset", "explain", "env", "list"}


def test_help_lists_the_commands_and_the_exit_codes(invoke):
    done = invoke("--help")
    assert done.exit_code == 0
    for name in command_names():
        assert f"\n  {name} " in done.stdout
    for code in (0, 1, MISUSED, REFUSED, BROKEN, STOPPED):
        assert f"\n    {code} " in done.stdout


def test_the_version(invoke):
    assert invoke("--version").stdout == f"{__version__}\n"


NO_TENSORS = [
    (),
    ("--help",),
    ("home",),
    ("list",),
    ("hint", "can_fold"),
    ("solution", "can_fold", "--give-up"),
    ("progress",),
    ("reset", "--all", "--yes"),
    ("start", "--help"),
    ("check", "--help"),
    ("explain", "--help"),
]


@pytest.mark.parametrize("arguments", NO_TENSORS, ids=" ".join)
def test_a_command_that_needs_no_tensor_imports_no_torch(launch, arguments):
    process = launch(*arguments)
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert output


def test_an_unknown_command_gets_a_guess(launch):
    process = launch("chekc", "strides")
    output, errors = process.communicate()
    assert process.returncode == MISUSED
    assert (output, errors) == (
        "",
        "error: no command is called 'chekc'; did you mean `check`? `blackbelt --help` shows all\n",
    )


class OurError(ValueError):
    """An error of the course, without an exit code of its own."""


OurError.__module__ = "blackbelt.tensors.strides"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (OurError("two\nlines"), MISUSED, "error: two lines"),
        (ProgressError("newer"), REFUSED, "error: newer"),
        (PermissionError(13, "Permission denied", "/x"), REFUSED, "error: [Errno 13] Permission denied: '/x'"),
        (KeyError("x"), BROKEN, "error: a defect of the course, KeyError: 'x'; `--debug` shows where"),
        (
            ValueError("torch's own"),
            BROKEN,
            "error: a defect of the course, ValueError: torch's own; `--debug` shows where",
        ),
        (KeyboardInterrupt(), STOPPED, "Stopped."),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error, code, line, capsys):
    @guarded
    def command():
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(launch, position):
    arguments = ["hint", "nothing_like_it"]
    process = launch(*arguments)
    assert "Traceback" not in process.communicate()[1]
    arguments.insert(position, "--debug")
    process = launch(*arguments)
    errors = process.communicate()[1]
    assert "Traceback" in errors and "UnknownNameError" in errors


def test_a_reader_that_leaves_is_no_error(launch):
    process = launch("list")
    process.stdout.close()
    process.wait()
    errors = process.stderr.read()
    process.stderr.close()
    process.stdout = process.stderr = None
    assert (process.returncode, errors) == (0, "")


def test_a_terminal_without_our_signs_goes_on(launch, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    process = launch("home")
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "??????????  0/2" in output


def test_debug_is_in_the_help_of_the_program_only(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["blackbelt", "list", "--debug", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "Usage: blackbelt list" in capsys.readouterr().out
