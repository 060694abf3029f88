"""``blackbelt watch``: grade again whenever the file is saved."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blackbelt.cli._output import say, show, warn

if TYPE_CHECKING:
    from blackbelt.cli._grading import Outcome, Target
    from blackbelt.dojo.isolation import Workers

POLL_SECONDS = 0.05
SETTLE_SECONDS = 0.5  # a file that cannot be read may be half written; it is called broken after this long


def watch(
    name: Annotated[str | None, typer.Argument(metavar="[LESSON|KATA]", help="A lesson or a kata.")] = None,
    file: Annotated[Path | None, typer.Argument(help="A notebook or Python file; default: your copy.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time limit for one kata.")] = 30.0,
) -> None:
    """Grade your answers again whenever you save; only katas whose code changed. Ctrl-C ends it.

    Without arguments: the lesson you saved last. Torch stays loaded, so a verdict takes little more than the kata's
    own time.

    Examples:
      blackbelt watch
      blackbelt watch can_view my_answers.py
    """
    from blackbelt.dojo.isolation import Workers

    with Workers() as workers:
        from blackbelt.cli._grading import find_target, read_target

        target = find_target(name, file)
        read_target(target)
        say(f"Watching {target.path}. Save it to grade; Ctrl-C ends.", bold=True)
        watcher = Watcher(workers, target, seconds)
        while True:
            watcher.look()
            time.sleep(POLL_SECONDS)


class Watcher:
    """Grades the katas of a target whose code differs from what was graded last."""

    def __init__(self, workers: Workers, target: Target, seconds: float) -> None:
        self._workers, self._target, self._seconds = workers, target, seconds
        self._graded: dict[str, str] = {}
        self._seen: tuple[int, ...] | None = None
        self._broken_since: float | None = None
        self._is_first = True

    def look(self) -> list[Outcome]:
        """Grade what changed since the last look, show it and return it."""
        from blackbelt.cli._grading import grade, read_target

        stamp = self._stamp()
        if stamp == self._seen:
            return []
        try:
            document = read_target(self._target)
        except ValueError as error:
            self._complain(error, stamp)
            return []
        self._seen, self._broken_since = stamp, None
        outcomes = []
        for kata in self._target.katas:
            try:
                fingerprint = document.cut(kata).fingerprint
            except ValueError as error:
                fingerprint = str(error)
            if self._graded.get(kata) == fingerprint:
                continue
            try:
                outcome = grade(
                    self._workers, document, self._target, kata, place="watch", seconds=self._seconds, more=True
                )
            except ValueError as error:  # the one kata watched is gone or broken: say so, and go on watching
                warn(str(error))
            else:
                self._tell(outcome)
                outcomes.append(outcome)
            self._graded[kata] = fingerprint
        self._is_first = False
        return outcomes

    def _tell(self, outcome: Outcome) -> None:
        if self._is_first and outcome.report.status == "open":
            say(f"  {outcome.report.kata} is open")
            return
        show(outcome.report)
        if outcome.problem:
            warn(outcome.problem)
        say()

    def _complain(self, error: ValueError, stamp: tuple[int, ...]) -> None:
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since = now
        elif now - self._broken_since > SETTLE_SECONDS:
            warn(str(error))
            self._seen, self._broken_since = stamp, None

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._target.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
