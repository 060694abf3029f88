"""The doctor in code: watch a block, or a script, and report."""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from blackbelt.doctor.finding import Finding
from blackbelt.doctor.places import observe_folders
from blackbelt.doctor.ranks import Ranks, merged, read_reports, reporting
from blackbelt.doctor.report import DoctorReport
from blackbelt.doctor.rule import Rule, all_rules
from blackbelt.doctor.run import Run
from blackbelt.doctor.taps import tapped


class Observation:
    """What :func:`watch` yields: the report so far."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def end(self) -> None:
        """Draw the last conclusions, and observe no more."""
        self._run.stop()

    @property
    def own(self) -> DoctorReport:
        """The findings of this process alone."""
        findings = sorted(self._run.conclusions(), key=lambda finding: -finding.severity)
        curves = tuple(self._run.recorder.curves)
        return DoctorReport(tuple(findings), self._run.num_steps, tuple(self._run.failures), curves=curves)

    @property
    def report(self) -> DoctorReport:
        """The findings so far, errors first; those of processes that the script has started are among them."""
        folder = self._run.folder
        return merged(self.own, self._run.children if folder is None else read_reports(folder))


@contextlib.contextmanager
def watch(
    rules: Iterable[type[Rule]] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
    *,
    max_steps: int | None = None,
    until_sure: bool = False,
    ranks: Ranks | None = None,
) -> Iterator[Observation]:
    """Observe what trains inside the block, on this thread.

    Looks at everything during the first 20 optimizer steps, and 20 of each optimizer that comes later, at little
    otherwise. Changes nothing: parameters, losses and random numbers are what they would be without it.

    ``rules`` are all where None, and may be classes of your own; ``on_finding`` hears of each finding at once. After
    ``max_steps`` optimizer steps, or with ``until_sure`` at the first error, the training is ended by a ``SystemExit``.

    Processes that the block starts are observed as well, those that run code of yours; the report has what they found.
    ``ranks`` is where this process itself meets others, when it is one of several; nothing you need to pass.

    Models, optimizers and loaders that were made before the block have no line of construction to point to.
    """
    chosen = list(all_rules().values() if rules is None else rules)
    for rule in chosen:
        if not (isinstance(rule, type) and issubclass(rule, Rule) and hasattr(rule, "code")):
            raise TypeError(
                f"watch() takes rules: classes that derive from Rule and have a `code` such as 'BB190'. It got {rule!r}"
            )

    def say(finding: Finding) -> None:
        if ranks is not None:
            ranks.write(observation.report)
        if on_finding is not None and (ranks is None or ranks.is_first(finding)):
            on_finding(finding)

    run = Run(chosen, on_finding if ranks is None else say, max_steps=max_steps, until_sure=until_sure)
    run.ranks = ranks
    observation = Observation(run)
    with contextlib.ExitStack() as stack:
        if ranks is not None:
            stack.enter_context(reporting(ranks, lambda: observation.report))
        stack.enter_context(tapped(run))
        yield observation


def run_script(
    observation: Observation, target: str, arguments: Sequence[str] = (), *, as_module: bool = False
) -> BaseException | None:
    """Run a script, or a module as ``python -m`` does, as ``__main__`` of this process; return what it raised, or None.

    ``SystemExit`` with code 0 or none counts as nothing raised. The observation ends while the script's objects live.
    """
    argv, path = sys.argv, list(sys.path)
    sys.argv = [target, *arguments]
    try:
        if as_module:
            sys.path.insert(0, str(Path.cwd()))
            observe_folders([Path.cwd()])
            names = runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            folder = Path(target).resolve().parent
            sys.path.insert(0, str(folder))
            observe_folders([folder])
            names = runpy.run_path(target, run_name="__main__")
        observation.end()
        del names
    except SystemExit as leave:
        observation.end()
        return leave if leave.code not in (None, 0) else None
    except BaseException as error:
        return error
    finally:
        sys.argv, sys.path[:] = argv, path
    return None


def own_traceback(error: BaseException) -> str:
    """Return the traceback as the script alone would have shown it, without the frames that ran it."""
    lines = error.__traceback__
    while lines is not None and lines.tb_frame.f_code.co_filename.startswith(("<frozen runpy", __file__)):
        lines = lines.tb_next
    return "".join(traceback.format_exception(type(error), error, lines))
