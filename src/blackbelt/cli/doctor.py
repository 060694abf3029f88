"""``blackbelt doctor``: run a training script under observation."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from blackbelt.cli import FAILED, STOPPED
from blackbelt.cli._output import say, say_json, show, warn

if TYPE_CHECKING:
    from blackbelt.doctor import DoctorReport, Finding, Rule, Severity
    from blackbelt.doctor.ranks import Ranks

SCRIPT_FAILED = 3
CONTEXT = {"allow_interspersed_args": False}  # what follows the script is the script's


class Level(str, Enum):
    """From which severity on findings make the command fail."""

    error = "error"
    warning = "warning"


def doctor(  # noqa: C901, PLR0913, PLR0917  (one argument and one branch per option)
    script: Annotated[Path | None, typer.Argument(help="The script, or with -m the module, as you run it.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own arguments.")] = None,
    module: Annotated[bool, typer.Option("-m", help="Run a module, as `python -m` does.")] = False,
    select: Annotated[list[str] | None, typer.Option(help="Only this rule; again for more.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Not this rule; again for more.")] = None,
    notes: Annotated[bool, typer.Option("--notes", help="Say what is only suspicious, too.")] = False,
    until_sure: Annotated[bool, typer.Option("--until-sure", help="End the training at the first error.")] = False,
    max_steps: Annotated[int | None, typer.Option(min=1, help="End the training after so many steps.")] = None,
    fail_on: Annotated[Level, typer.Option(help="Exit with 1 from this severity on.")] = Level.error,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; the script's output goes to stderr.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="The same as SARIF, for code scanning.")] = False,
    explain: Annotated[str | None, typer.Option(help="Print the page of a rule and exit.", metavar="CODE")] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules and exit.")] = False,
) -> None:
    """Run a training script, unchanged, and report failures that throw nothing.

    Each finding names the line of its cause, the figures that show it, and the fix. The training is what it would be
    without: same losses, same parameters, same random numbers. A comment `# blackbelt: ignore[BB301] reason` on a line
    silences a rule there.

    Exits with 0 where nothing is found, 1 where something is, 2 for a wrong option, 3 where the script itself fails.

    Examples:
      blackbelt doctor train.py --epochs 3     the script and its arguments
      blackbelt doctor --max-steps 50 train.py enough for most
      blackbelt doctor --explain BB301         one rule's page
      blackbelt doctor -m torch.distributed.run --nproc-per-node 2 train.py
      torchrun --nproc-per-node 2 -m blackbelt doctor train.py
                                               every rank, one report
    """
    from blackbelt.doctor import DoctorReport, Severity, all_rules
    from blackbelt.doctor.launching import is_launcher, report_of_all
    from blackbelt.doctor.ranks import from_environment
    from blackbelt.doctor.sarif import to_sarif

    if rules:
        for code, rule in all_rules().items():
            say(f"{code}  {rule.severity!s:8} {rule.title}")
        return
    if explain is not None:
        rule = _rule(explain)
        say(f"{rule.code}: {rule.title} ({rule.severity})", bold=True)
        say("\n" + (inspect.getdoc(rule) or ""))
        if rule.lesson:
            say(f"\nLesson: {rule.lesson}")
        return
    if script is None:
        raise typer.BadParameter("name the script to run, such as train.py; --rules lists what it is examined for")
    if not module and not script.is_file():
        raise typer.BadParameter(f"{script} is no file; pass the script as you would to python")
    chosen = [_rule(code) for code in select or all_rules()]
    left_out = {_rule(code).code for code in ignore or ()}
    chosen = [rule for rule in chosen if rule.code not in left_out and (notes or rule.severity > Severity.NOTE)]
    said: list[int] = []

    joined = from_environment()  # with other ranks

    def conclude(report: DoctorReport, error: BaseException | None) -> int:
        if not said:  # once, whether the script ends or calls os._exit
            if joined is not None:
                report, error = report_of_all(*joined, report, error)
            if joined is not None and not joined[1]:  # another one tells, and its exit code says it
                said.append(_exit_code(DoctorReport((), 0), error, Severity.ERROR))
                return said[0]
            if sarif:
                say_json(to_sarif(report, Path.cwd()))
            elif json:
                say_json(report.to_dict())
            else:
                show(report)
            said.append(_exit_code(report, error, Severity[fail_on.name.upper()]))
        return said[0]

    if is_launcher(str(script), as_module=module):
        passed = _options(select, ignore, max_steps, notes=notes, until_sure=until_sure)
        report, error = _launch(arguments or [], passed, machine=json or sarif)
    else:
        report, error = _observe(
            str(script), arguments or [], chosen, module, max_steps, until_sure, json or sarif, joined, conclude
        )
    if until_sure and report.errors and report.ranks and not isinstance(error, KeyboardInterrupt):
        error = None  # what a rank says whose partner was sure and has left
    if status := conclude(report, error):
        raise typer.Exit(status)


def _exit_code(report: DoctorReport, error: BaseException | None, limit: Severity) -> int:
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    if error is not None:
        return SCRIPT_FAILED
    return FAILED if any(finding.severity >= limit for finding in report.findings) else 0


def _observe(  # noqa: PLR0913, PLR0917  (what the options say, handed on)
    script: str,
    arguments: list[str],
    rules: list[type[Rule]],
    module: bool,
    max_steps: int | None,
    until_sure: bool,
    machine: bool,
    joined: tuple[Ranks, bool] | None,
    conclude: Callable[[DoctorReport, BaseException | None], int],
) -> tuple[DoctorReport, BaseException | None]:
    from blackbelt.doctor.launching import ending_when_terminated
    from blackbelt.doctor.observing import own_traceback, run_script, watch

    with contextlib.ExitStack() as stack:
        if machine:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        observation = stack.enter_context(
            watch(
                rules,
                None if machine else _say_finding,
                max_steps=max_steps,
                until_sure=until_sure,
                ranks=joined and joined[0],
            )
        )
        leave, process = os._exit, os.getpid()

        def report_and_leave(status: int) -> NoReturn:
            if os.getpid() == process:  # a child that was forked says nothing
                stack.close()  # the end of the observation, which removes its folders
                with contextlib.redirect_stdout(sys.__stdout__):
                    status = conclude(observation.report, SystemExit(status) if status else None)
                sys.stdout.flush()
            leave(status)

        os._exit = report_and_leave
        stack.callback(setattr, os, "_exit", leave)
        try:
            with ending_when_terminated() if joined is not None and joined[1] else contextlib.nullcontext():
                error = run_script(observation, script, arguments, as_module=module)
        except SystemExit as late:  # a signal between the script's end and here
            error = late
    if error is not None and not isinstance(error, KeyboardInterrupt):
        sys.stderr.write(f"exit code {error.code}\n" if isinstance(error, SystemExit) else own_traceback(error))
    return observation.report, error


def _options(
    select: list[str] | None, ignore: list[str] | None, max_steps: int | None, *, notes: bool, until_sure: bool
) -> list[str]:
    """Return the options that every rank needs, as they are written."""
    return [
        *(word for code in select or () for word in ("--select", code)),
        *(word for code in ignore or () for word in ("--ignore", code)),
        *(("--max-steps", str(max_steps)) if max_steps is not None else ()),
        *(("--notes",) if notes else ()),
        *(("--until-sure",) if until_sure else ()),
    ]


def _launch(arguments: list[str], options: list[str], *, machine: bool) -> tuple[DoctorReport, BaseException | None]:
    from blackbelt.doctor.launching import launch, observed_arguments

    try:
        return launch(observed_arguments(arguments, options), sys.stderr if machine else None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _say_finding(finding: Finding) -> None:
    where = f"{finding.place.file}:{finding.place.line}: " if finding.place else ""
    warn(f"{where}{finding.code} {finding.message}")


def _rule(code: str) -> type[Rule]:
    from blackbelt.doctor import all_rules

    if code.upper() not in all_rules():
        raise typer.BadParameter(f"no rule has the code {code!r}; `blackbelt doctor --rules` lists them")
    return all_rules()[code.upper()]
