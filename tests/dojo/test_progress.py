"""The learner's record: nothing reported as saved is lost, nothing damaged or newer is overwritten."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from blackbelt.dojo import progress as module
from blackbelt.dojo.progress import NewerProgressError, NotSavedError, data_folder, open_progress


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLACKBELT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach; pytest's own are closed to all but the one who runs it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def powerless() -> Iterator[None]:
    """Permissions do not bind root: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_what_is_recorded_comes_back() -> None:
    before = datetime.now(timezone.utc)
    with open_progress() as progress:
        progress.record_attempt("can_view", False, "strides matter", source="def can_view(): …", place="check")
        progress.record_attempt("can_view", True, "all laws hold")
        progress.record_attempt("windows", False, "it copies", place="watch")
        progress.record_hint("windows", 1)
        progress.record_hint("windows", 2)
        progress.record_solution("windows", gave_up=True)
        progress.record_solution("can_view", gave_up=False)
    with open_progress() as progress:
        assert list(progress.solved()) == ["can_view"]
        assert before <= progress.solved()["can_view"] <= datetime.now(timezone.utc)
        failed, passed = progress.attempts("can_view")
        assert (failed.passed, failed.sentence, failed.place) == (False, "strides matter", "check")
        assert failed.source == "def can_view(): …"
        assert (passed.passed, passed.source, passed.place) == (True, None, "notebook")
        assert [attempt.kata for attempt in progress.attempts()] == ["can_view", "can_view", "windows"]
        assert (progress.hints_shown("windows"), progress.hints_shown("can_view")) == (2, 0)
        assert progress.given_up() == {"windows"}


def test_the_first_answer_counts() -> None:
    with open_progress() as progress:
        assert progress.record_prediction("tensors/strides", "q1", "Which?", "A", right=False)
        assert not progress.record_prediction("tensors/strides", "q1", "Which?", "B", right=True)
        assert progress.record_prediction("tensors/einsum", "q1", "Which?", "C", right=True)
        (first,) = progress.predictions("tensors/strides")
        assert (first.answer, first.right) == ("A", False)
        assert len(progress.predictions()) == 2


def test_reset_forgets_what_was_named_and_no_more() -> None:
    with open_progress() as progress:
        for kata in ("a", "b"):
            progress.record_attempt(kata, True, "")
            progress.record_hint(kata, 1)
            progress.record_solution(kata, gave_up=True)
        for lesson in ("tensors/x", "tensors/y"):
            progress.record_prediction(lesson, "q", "?", "A", right=True)
        progress.reset([])
        assert len(progress.solved()) == 2
        progress.reset(["a"], lessons=["tensors/x"])
        assert (set(progress.solved()), progress.given_up(), progress.hints_shown("a")) == ({"b"}, {"b"}, 0)
        assert [prediction.lesson for prediction in progress.predictions()] == ["tensors/y"]
        progress.reset()
        assert (progress.attempts(), progress.predictions(), progress.given_up()) == ((), (), frozenset())


def test_an_unknown_place_is_refused() -> None:
    with (
        open_progress() as progress,
        pytest.raises(ValueError, match="place='bath'; expected one of notebook, check, watch"),
    ):
        progress.record_attempt("a", True, "", place="bath")


def test_the_file_is_durable() -> None:
    with open_progress() as progress:
        (mode,) = progress._connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = progress._connection.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2)  # 2 is FULL


def test_the_folder_comes_from_the_environment_or_the_platform(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert data_folder() == home
    monkeypatch.setenv("BLACKBELT_HOME", "~/there")
    assert data_folder() == Path.home() / "there"
    monkeypatch.setenv("BLACKBELT_HOME", "")
    assert data_folder().name == "blackbelt"


# --- two writers, and kill -9 -----------------------------------------------------------------------------------------

_WRITER = """
import sys
from blackbelt.dojo.progress import open_progress
name, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    with open_progress() as progress:
        progress.record_attempt(f"{name}_{number}", True, "fine")
    print("saved", number, flush=True)
"""


def _writer(name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, name, str(count)], stdout=subprocess.PIPE, text=True)


def test_two_processes_write_at_once_from_the_first_moment() -> None:
    writers = [_writer(name, 60) for name in ("one", "two", "three")]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    with open_progress() as progress:
        assert len(progress.solved()) == 180


@pytest.mark.slow
def test_kill_nine_loses_nothing_that_was_reported_as_saved() -> None:
    chance = random.Random(7)
    reported: set[str] = set()
    for trial in range(50):
        writer = _writer(f"trial{trial}", 10_000)
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it runs; now strike at any moment
        killer = threading.Timer(chance.uniform(0, 0.05), writer.kill)
        killer.start()
        rest = writer.stdout.read()
        writer.wait()
        writer.stdout.close()
        lines = [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]
        reported.update(f"trial{trial}_{line.split()[1]}" for line in lines)
    with open_progress() as progress:
        assert reported <= set(progress.solved())
    assert len(reported) >= 50


# --- files that are not what they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["garbage", "header", "truncated", "page", "foreign"])
def test_a_damaged_file_is_set_aside_and_the_user_told(
    home: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_progress() as progress:
        for number in range(300):
            progress.record_attempt("before", False, "x" * 200 + str(number))
    path = home / module.FILE_NAME
    content = path.read_bytes()
    if damage == "foreign":
        path.unlink()
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE recipes (name)")
        connection.close()
    else:
        damaged = {
            "garbage": b"not a database at all " * 100,
            "header": b"\0" * 32 + content[32:],
            "truncated": content[: len(content) // 2],
            "page": content[:8192] + b"\xff" * 4096 + content[12288:],
        }
        path.write_bytes(damaged[damage])
    broken = path.read_bytes()

    with open_progress() as progress:
        progress.record_attempt("after", True, "")
        assert list(progress.solved()) == ["after"]
    (kept,) = home.glob("progress.damaged-*.sqlite")
    assert kept.read_bytes() == broken
    told = capsys.readouterr().err
    assert "is damaged" in told and kept.name in told and "a new record was begun" in told


def test_a_second_process_does_not_set_aside_the_fresh_file(home: Path) -> None:
    home.mkdir()
    path = home / module.FILE_NAME
    path.write_bytes(b"garbage")
    seen = module._identity(path)
    path.rename(home / "set aside by another process")
    with open_progress() as progress:
        progress.record_attempt("fresh", True, "")
    module._set_aside(path, seen, sqlite3.DatabaseError("late"))
    with open_progress() as progress:
        assert list(progress.solved()) == ["fresh"]


def test_an_empty_file_is_filled(home: Path) -> None:
    home.mkdir()
    (home / module.FILE_NAME).touch()
    with open_progress() as progress:
        progress.record_attempt("a", True, "")
    assert not list(home.glob("*damaged*"))


def test_a_newer_file_is_refused_and_left_alone(home: Path) -> None:
    with open_progress() as progress:
        progress.record_attempt("a", True, "")
        progress._connection.execute(f"PRAGMA user_version={module.SCHEMA_VERSION + 1}")
    path = home / module.FILE_NAME
    before = path.read_bytes()
    with pytest.raises(NewerProgressError, match=r"has version 2, and this course reads up to version 1\. It was left"):
        open_progress()
    assert path.read_bytes() == before
    assert [item.name for item in home.iterdir()] == [module.FILE_NAME]


# --- nothing can be written -------------------------------------------------------------------------------------------


def test_a_full_database_says_not_saved_and_keeps_what_was() -> None:
    with open_progress() as progress:
        progress.record_attempt("before", True, "")
        (pages,) = progress._connection.execute("PRAGMA page_count").fetchone()
        progress._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(NotSavedError, match=r"at `big` was not saved: the disk that holds .* is full; free some"):
            progress.record_attempt("big", True, "x" * 100_000)
        assert list(progress.solved()) == ["before"]
        progress._connection.execute(f"PRAGMA max_page_count={pages + 100}")
        progress.record_attempt("big", True, "x" * 100_000)
        assert list(progress.solved()) == ["before", "big"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tiny", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tiny disk takes root and mount(8)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill_up(progress: module.Progress) -> None:
    for _ in range(100):
        progress.record_attempt("late", True, "x" * 4096)


@pytest.mark.parametrize("begun", [True, False])
def test_a_disk_that_is_really_full(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    monkeypatch.setenv("BLACKBELT_HOME", str(tiny_disk / "home"))
    if begun:
        with open_progress() as progress:
            progress.record_attempt("before", True, "")
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with open_progress() as progress:
        with pytest.raises(NotSavedError, match=r"was not saved: the disk that holds .* is full; free some space"):
            fill_up(progress)
        assert ("before" in progress.solved()) == begun
    filler.unlink()
    with open_progress() as progress:
        progress.record_attempt("after", True, "")
        assert set(progress.solved()) - {"late"} == ({"before", "after"} if begun else {"after"})


def test_a_file_size_limit_is_not_a_crash() -> None:
    program = (
        "import resource\n"
        "from blackbelt.dojo.progress import NotSavedError, open_progress\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "with open_progress() as progress:\n"
        "    progress.record_attempt('small', True, '')\n"
        "    try:\n"
        "        progress.record_attempt('big', True, 'x' * 100_000)\n"
        "    except NotSavedError as error:\n"
        "        print(error, sorted(progress.solved()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "`big` was not saved" in done.stdout and done.stdout.endswith("['small']\n")


@pytest.mark.parametrize("begun", [True, False])
def test_a_read_only_folder_can_be_read(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch, begun: bool, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("BLACKBELT_HOME", str(open_folder / "home"))
    (open_folder / "home").mkdir()
    if begun:
        with open_progress() as progress:
            progress.record_attempt("before", True, "")
    (open_folder / "home").chmod(0o555)
    request.getfixturevalue("powerless")
    with open_progress() as progress:
        assert list(progress.solved()) == (["before"] if begun else [])
        with pytest.raises(
            NotSavedError, match=r"was not saved: .*; make .* writable, or set BLACKBELT_HOME to a folder that"
        ):
            progress.record_attempt("late", True, "")
        with pytest.raises(NotSavedError):
            progress.reset()


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLACKBELT_HOME", str(tmp_path / "file" / "home"))
    with open_progress() as progress:
        assert progress.solved() == {}
        with pytest.raises(NotSavedError, match="Not a directory"):
            progress.record_hint("a", 1)


def test_progress_imports_no_torch() -> None:
    program = "import sys, blackbelt.dojo.progress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
