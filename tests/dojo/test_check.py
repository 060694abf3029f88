from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from blackbelt.cli import check as check_file
from blackbelt.cli._application import application
from blackbelt.dojo import isolation
from blackbelt.dojo.catalog import lessons
from blackbelt.dojo.progress import NotSavedError, Progress, open_progress
from blackbelt.dojo.workspace import lesson_path

from .grading import KATA, Command, StandIn, real_answers, write_answers


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tiny_course: Path) -> None:
    """Commands grade with :class:`StandIn` and see the stand-in course: can_fold and unfold, can_saw and unsaw."""
    monkeypatch.setattr(isolation, "Workers", StandIn)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(application(), ["check", *map(str, arguments)])


def attempts() -> list[tuple[str, bool, str]]:
    with open_progress() as progress:
        return [(each.kata, each.passed, each.place) for each in progress.attempts()]


def answers(**bodies: str) -> Path:
    """Put answers where lesson 1.2 is in the workspace."""
    return write_answers(lesson_path(next(lesson for lesson in lessons() if lesson.number == "1.2")), **bodies)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:click")


@pytest.mark.usefixtures("stand_in")
class TestCommand:
    def test_without_arguments_it_takes_the_lesson_saved_last(self) -> None:
        stub = 'raise NotImplementedError("your turn")'
        answers(can_fold=stub, unfold=stub)
        earlier = write_answers(lesson_path(lessons()[2]), can_saw=stub, unsaw=stub)
        os.utime(earlier, (1, 1))
        result = run()
        assert result.exit_code == 1
        assert "can_fold is open" in result.output and "unfold is open" in result.output and "saw" not in result.output
        assert "0 of 2 passed, 0 failed, 2 open." in result.output and "Saved" not in result.output
        assert attempts() == []

    def test_passes_are_recorded_and_give_0(self) -> None:
        answers(can_fold="return 'RIGHT'", unfold="return 'RIGHT'")
        result = run("1.2")
        assert result.exit_code == 0, result.output
        assert "2 of 2 passed, 0 failed, 0 open. Saved." in result.output
        assert attempts() == [("can_fold", True, "check"), ("unfold", True, "check")]
        with open_progress() as progress:
            assert progress.attempts()[0].source == "def can_fold(*a):\n    return 'RIGHT'"

    def test_a_failure_gives_1_and_its_sentence(self) -> None:
        answers(can_fold="return 1", unfold="return 'RIGHT'")
        result = run("folds")
        assert result.exit_code == 1
        assert "can_fold failed: It is wrong" in result.output and "1 of 2 passed, 1 failed, 0 open." in result.output

    def test_a_kata_that_is_not_in_the_file_is_open(self) -> None:
        answers(can_fold="return 'RIGHT'")
        result = run("folds")
        assert result.exit_code == 1
        assert "unfold is open: 2_folds.ipynb does not define it" in result.output

    def test_a_syntax_error_in_one_kata_leaves_the_others(self) -> None:
        answers(can_fold="return (1", unfold="return 'RIGHT'")
        result = run("folds")
        text = " ".join(result.output.split())
        assert result.exit_code == 1 and "can_fold failed: the cell of `can_fold` is not valid Python" in text
        assert "cell 1, line 2" in text and "return (1" in text
        assert attempts() == [("unfold", True, "check")]
        single = run("can_fold")
        assert single.exit_code == 2 and "is not valid Python" in single.output

    def test_kata_and_file_by_name(self, tmp_path: Path) -> None:
        file = write_answers(tmp_path / "mine.ipynb", can_fold="return 'RIGHT'", other="return 1")
        assert run("can_fold", file).exit_code == 0
        assert run(file).exit_code == 0
        assert run("folds", file).exit_code == 1
        assert run("unfold", file).exit_code == 2

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["can_fald"], "did you mean `can_fold`"),
            (["can_fold"], "there is no file"),
            ([], "no lesson is in"),
            (["can_fold", "answers.txt"], "neither a notebook"),
        ],
    )
    def test_misuse_gives_2_and_says_what_to_do(self, arguments: list[str], words: str) -> None:
        result = run(*arguments)
        assert result.exit_code == 2 and words in result.output and result.output.startswith("error: ")
        assert attempts() == []

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "is empty"),
            ('{"nbformat": 4, "cells": [', "is cut off"),
            ("hello", "is not valid JSON"),
            ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": "x = 1"}]}', "has no kata cells"),
        ],
    )
    def test_a_broken_notebook_gives_2(self, content: str, words: str) -> None:
        answers().write_text(content, encoding="utf-8")
        result = run("1.2")
        assert result.exit_code == 2 and words in result.output and "blackbelt start" in result.output

    def test_a_read_only_notebook_is_graded(self) -> None:
        answers(can_fold="return 'RIGHT'").chmod(0o444)
        assert run("can_fold").exit_code == 0

    def test_json(self) -> None:
        file = answers(can_fold="return 'RIGHT'", unfold="return 1")
        result = run("1.2", "--json")
        read: dict[str, Any] = json.loads(result.output)
        assert result.exit_code == 1 and read["file"] == str(file)
        assert [(k["kata"], k["status"], k["saved"]) for k in read["katas"]] == [
            ("can_fold", "passed", True),
            ("unfold", "failed", True),
        ]

    def test_a_verdict_is_recorded_before_it_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers(can_fold="return 'RIGHT'", unfold="return 1")
        recorded: list[int] = []
        monkeypatch.setattr(check_file, "show", lambda _: recorded.append(len(attempts())))
        run("1.2")
        assert recorded == [1, 2]

    def test_a_full_disk_is_told_and_gives_3(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise NotSavedError("your attempt was not saved: the disk is full; free some space and try again")

        monkeypatch.setattr(Progress, "record_attempt", refuse)
        answers(can_fold="return 'RIGHT'")
        result = run("can_fold")
        assert result.exit_code == 3
        assert "passed" in result.output and "the disk is full" in result.output
        assert "Not everything was saved." in result.output


def test_two_checks_at_once(tmp_path: Path) -> None:
    file = real_answers(tmp_path)
    with Command("check", KATA, file) as one, Command("check", KATA, file) as other:
        assert [one.end(), other.end()] == [0, 0], (one.seen, other.seen)
    assert attempts() == [(KATA, True, "check")] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("moment", ["loading", "grading"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_stopped_at_once_with_no_child_left(tmp_path: Path, moment: str, name: str) -> None:
    started = tmp_path / "started"
    file = real_answers(tmp_path, f"open({str(started)!r}, 'w').close()\n    while True: pass")
    with Command("check", KATA, file) as command:
        own = psutil.Process(command.process.pid)
        family = wait_until(lambda: own.children(recursive=True))
        if moment == "grading":
            wait_until(started.exists)
            family = own.children(recursive=True)
            assert len(family) >= 2
        command.process.send_signal(getattr(signal, name))
        code = command.end()
    _, alive = psutil.wait_procs(family, timeout=120)
    assert not alive
    assert code == (130 if name == "SIGINT" else -signal.SIGKILL), command.seen
    assert attempts() == [] and ("Stopped." in "".join(command.seen)) is (name == "SIGINT")


RECORD = """
import sys
from pathlib import Path
from blackbelt.cli._grading import _record
from blackbelt.dojo.slicing import cut_out
from blackbelt.dojo.verdict import KataReport

cut = cut_out(Path(sys.argv[1]), "f")
for number in range(10**6):
    outcome = _record(KataReport("f", "passed", f"{sys.argv[2]} {number}"), cut, "check")
    print("saved" if outcome.saved else outcome.problem, number, flush=True)
"""


def test_kill_9_at_any_moment_loses_nothing_that_was_reported_as_saved(tmp_path: Path) -> None:
    """Fifty times, two at once on one file: what a process said it saved before it was killed is there afterwards."""
    file = tmp_path / "answers.py"
    file.write_text("def f(): return 1", encoding="utf-8")
    chance = random.Random(2026)
    reported: set[str] = set()
    for pair in range(25):
        names = [f"{pair} {side}" for side in "ab"]
        running = [
            subprocess.Popen([sys.executable, "-c", RECORD, str(file), name], stdout=subprocess.PIPE, text=True)
            for name in names
        ]
        first = [""] * 2 if pair < 5 else [process.stdout.readline() for process in running if process.stdout]
        time.sleep(chance.uniform(0, 0.4 if pair < 5 else 0.05))  # while it starts, or while it writes
        for process in running:
            process.kill()
        for name, process, line_before in zip(names, running, first):
            for line in (line_before + process.communicate()[0]).splitlines(keepends=True):
                word, number = line.split() if line.endswith("\n") else ("", "")
                assert word in ("saved", ""), line
                reported |= {f"{name} {number}"} if word else set()
    with open_progress() as progress:
        kept = {attempt.sentence for attempt in progress.attempts("f")}
    assert reported and reported <= kept
    assert not list(Path(os.environ["BLACKBELT_HOME"]).glob("*damaged*"))


def wait_until(condition: Any) -> Any:
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found
