from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from blackbelt.cli import watch as watch_file
from blackbelt.cli._grading import find_target
from blackbelt.cli.watch import Watcher
from blackbelt.dojo.progress import open_progress

from .grading import KATA, Command, StandIn, real_answers, write_answers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_answers(tmp_path / "folds.ipynb", can_fold="return 1", unfold='raise NotImplementedError("your turn")')


@pytest.fixture
def watcher(tiny_course: Path, path: Path) -> Watcher:
    return Watcher(StandIn(), find_target(None, path), seconds=5)  # type: ignore[arg-type]


def look(watcher: Watcher) -> dict[str, str]:
    return {outcome.report.kata: outcome.report.status for outcome in watcher.look()}


def test_only_katas_whose_code_changed_are_graded_again(watcher: Watcher, path: Path) -> None:
    assert look(watcher) == {"can_fold": "failed", "unfold": "open"}
    assert look(watcher) == {}
    stub = 'raise NotImplementedError("your turn")'
    write_answers(path, can_fold="return 1  # a comment", unfold=stub, other="return 1")
    assert look(watcher) == {}
    write_answers(path, can_fold="return 'RIGHT'", unfold=stub)
    assert look(watcher) == {"can_fold": "passed"}
    with open_progress() as progress:
        assert [(each.kata, each.passed, each.place) for each in progress.attempts()] == [
            ("can_fold", False, "watch"),
            ("can_fold", True, "watch"),
        ]


def test_a_verdict_that_is_recorded_already_is_not_repeated(watcher: Watcher, tiny_course: Path, path: Path) -> None:
    watcher.look()
    assert look(Watcher(StandIn(), find_target(None, path), seconds=5))["can_fold"] == "failed"  # type: ignore[arg-type]
    with open_progress() as progress:
        assert len(progress.attempts("can_fold")) == 1


def test_a_half_written_file_is_waited_for_and_a_broken_one_told_once(
    watcher: Watcher, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher.look()
    capsys.readouterr()
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:50], encoding="utf-8")
    assert look(watcher) == {} and not capsys.readouterr().err
    monkeypatch.setattr(watch_file, "SETTLE_SECONDS", -1.0)
    assert look(watcher) == {} and "is cut off" in capsys.readouterr().err
    assert look(watcher) == {} and not capsys.readouterr().err
    path.write_text(whole.replace("return 1", "return 'RIGHT'"), encoding="utf-8")
    assert look(watcher) == {"can_fold": "passed"}


def test_a_syntax_error_is_told_and_watching_goes_on(
    tiny_course: Path, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher(StandIn(), find_target("can_fold", path), seconds=5)  # type: ignore[arg-type]
    assert look(watcher) == {"can_fold": "failed"}
    write_answers(path, can_fold="return (1")
    assert look(watcher) == {} and "is not valid Python" in capsys.readouterr().err
    assert look(watcher) == {}
    write_answers(path, can_fold="return 'RIGHT'")
    assert look(watcher) == {"can_fold": "passed"}


def test_a_file_that_vanishes_for_a_moment_is_waited_for(watcher: Watcher, path: Path) -> None:
    watcher.look()
    path.unlink()
    assert look(watcher) == {}
    write_answers(path, can_fold="return 'RIGHT'")
    assert look(watcher)["can_fold"] == "passed"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_watch_for_real_until_ctrl_c(tmp_path: Path) -> None:
    path = real_answers(tmp_path)
    with Command("watch", KATA, path) as command:
        command.wait_for(f"{KATA} passed")
        real_answers(tmp_path, "import os; os._exit(0)")
        command.wait_for("ended the process")
        real_answers(tmp_path, 'raise NotImplementedError("your turn")')
        command.wait_for(f"{KATA} is open")
        family: list[Any] = psutil.Process(command.process.pid).children(recursive=True)
        assert family
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 130, command.seen
        _, alive = psutil.wait_procs(family, timeout=120)
        assert not alive
    with open_progress() as progress:
        assert [attempt.place for attempt in progress.attempts(KATA)] == ["watch", "watch"]
