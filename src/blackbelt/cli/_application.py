"""The Typer application: commands found in this folder, and what all of them do with an error."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from blackbelt import __version__
from blackbelt.cli import BROKEN, FAILED, MISUSED, REFUSED, STOPPED

EPILOG = f"""\b
Exit codes:
  0    done
  {FAILED}    the answer is no: a kata fails, a claim is false
  {MISUSED}    what was passed is not understood
  {REFUSED}    the machine refuses: full disk, missing permission, port in use
  {BROKEN}   a defect of the course; --debug shows the traceback
  {STOPPED}  stopped with Ctrl-C"""

_debug = ContextVar("debug", default=False)


def run(arguments: Sequence[str]) -> None:
    """Run the command line with these arguments and exit. `--debug` is understood wherever it stands."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ✓ or █ shows ?, and the command goes on
    if "--debug" in arguments:
        arguments = ["--debug", *(argument for argument in arguments if argument != "--debug")]
    application(_wanted(arguments))(args=arguments, prog_name="blackbelt")


def command_names() -> list[str]:
    """Return the names of the commands: those of the files of this folder."""
    return sorted(
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if not module.name.startswith("_")
    )


def _wanted(arguments: Sequence[str]) -> str | None:
    """Return the command that is asked for, None where all are. Ends with an error where there is no such command."""
    if not set(arguments) - {"--debug"}:
        return "home"
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is None or name in command_names():
        return name
    import difflib

    nearest = difflib.get_close_matches(name, command_names(), n=1)
    guess = f"did you mean `{nearest[0]}`? " if nearest else ""
    typer.echo(f"error: no command is called {name!r}; {guess}`blackbelt --help` shows all", err=True)
    sys.exit(MISUSED)


@functools.cache
def application(only: str | None = None) -> typer.Typer:
    """Return the Typer application: with the command of every file in this folder, or with one, which is quicker."""
    app = typer.Typer(
        rich_markup_mode=None,  # Rich's help takes longer to import than the command takes to run
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
    )
    app.callback(invoke_without_command=True, epilog=EPILOG, help=_help(_home))(_home)
    for name in [only] if only else command_names():
        module = importlib.import_module(f"blackbelt.cli.{name}")
        command = getattr(module, name)
        app.command(name, help=_help(command), context_settings=getattr(module, "CONTEXT", None))(guarded(command))
    return app


def _home(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version of the course.")] = False,
) -> None:
    """PyTorch Black Belt: prove each claim about PyTorch on your own machine.

    Without a command: the dojo on one screen, and the one next step.

    Examples:
      blackbelt start          copy the next lesson and open it in JupyterLab
      blackbelt check strides  grade your answers
      blackbelt hint can_view  one hint at a time
    """
    _debug.set(debug)
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        from blackbelt.cli.home import home

        guarded(home)()


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``command`` so that an error ends it with one line and an exit code; under `--debug`, with a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(STOPPED) from None
        except BrokenPipeError:  # `blackbelt list | head`: nobody reads on, which is no error
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if _debug.get():
                raise
            code = exit_code(error)
            words = " ".join(str(error).split()) or type(error).__name__
            if code == BROKEN:
                words = f"a defect of the course, {type(error).__name__}: {words}; `--debug` shows where"
            typer.echo(f"error: {words}", err=True)
            raise typer.Exit(code) from None

    return run


def exit_code(error: Exception) -> int:
    """Return the exit code for an error: its own ``exit_code``, else by its kind and where it comes from."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return code
    if isinstance(error, OSError):
        return REFUSED
    if isinstance(error, (ValueError, TypeError)) and type(error).__module__.startswith("blackbelt."):
        return MISUSED
    return BROKEN


def _help(command: Callable[..., Any]) -> str:
    """The docstring, with a mark that keeps the lines of its examples apart."""
    text = inspect.getdoc(command) or ""
    return text if "\b" in text else text.replace("\n\nExample", "\n\n\b\nExample")
