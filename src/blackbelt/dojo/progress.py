"""What the learner has done, in one SQLite file that two processes may write and that survives ``kill -9``.

The file is in write-ahead mode with ``synchronous=FULL``: when a ``record_…`` method returns, what it recorded is on
the disk. A damaged file is set aside under another name and never overwritten; a file of a newer version is refused and
left alone; where nothing can be written (full disk, read-only folder) reading goes on and every ``record_…`` raises
:class:`NotSavedError`. Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

FILE_NAME = "progress.sqlite"
SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0  # how long one process waits for another one that is writing
PLACES = ("notebook", "check", "watch")

_COLUMNS = {
    "attempts": "kata TEXT NOT NULL, passed INTEGER NOT NULL, sentence TEXT NOT NULL, source TEXT, "
    "place TEXT NOT NULL, at TEXT NOT NULL",
    "predictions": "lesson TEXT NOT NULL, key TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, "
    "right INTEGER NOT NULL, at TEXT NOT NULL, PRIMARY KEY (lesson, key)",
    "hints": "kata TEXT NOT NULL, level INTEGER NOT NULL, at TEXT NOT NULL",
    "solutions": "kata TEXT NOT NULL, gave_up INTEGER NOT NULL, at TEXT NOT NULL",
}
_SCHEMA = tuple(f"CREATE TABLE {table} ({columns})" for table, columns in _COLUMNS.items())
_FORGET_KATA = (
    "DELETE FROM attempts WHERE kata = ?",
    "DELETE FROM hints WHERE kata = ?",
    "DELETE FROM solutions WHERE kata = ?",
)
_FORGET_ALL = ("DELETE FROM attempts", "DELETE FROM hints", "DELETE FROM solutions", "DELETE FROM predictions")


class ProgressError(OSError):
    """The file that holds the learner's progress cannot be used as it is."""

    exit_code = 3


class NotSavedError(ProgressError):
    """Something was not recorded; the message says what and why. What was recorded before is still there."""


class NewerProgressError(ProgressError):
    """The file was written by a newer version of the course. It was left as it is."""


@dataclass(frozen=True)
class Attempt:
    """One graded attempt at a kata. ``place``: notebook, check or watch."""

    kata: str
    passed: bool
    sentence: str
    source: str | None
    place: str
    at: datetime


@dataclass(frozen=True)
class Prediction:
    """The first answer to one question of a lesson."""

    lesson: str
    key: str
    question: str
    answer: str
    right: bool
    at: datetime


class Progress:
    """The learner's record; get one from :func:`open_progress` and use it as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, problem: str | None = None) -> None:
        self.path = path
        self._connection = connection
        self._problem = problem

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Everything recorded is on the disk already."""
        self._connection.close()

    def record_attempt(
        self, kata: str, passed: bool, sentence: str, source: str | None = None, place: str = "notebook"
    ) -> None:
        """Record one graded attempt. Raises :class:`NotSavedError` where that is not possible."""
        if place not in PLACES:
            raise ValueError(f"place={place!r}; expected one of {', '.join(PLACES)}")
        values = (kata, bool(passed), sentence, source, place, _now())
        self._write(f"your attempt at `{kata}`", "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)", values)

    def record_prediction(self, lesson: str, key: str, question: str, answer: str, right: bool) -> bool:
        """Record an answer; return whether it counts: only the first answer to a question does."""
        values = (lesson, key, question, answer, bool(right), _now())
        added = self._write("your prediction", "INSERT OR IGNORE INTO predictions VALUES (?, ?, ?, ?, ?, ?)", values)
        return added == 1

    def record_hint(self, kata: str, level: int) -> None:
        """Record that hint number ``level`` (1 is the first) was shown."""
        self._write(f"the hint for `{kata}`", "INSERT INTO hints VALUES (?, ?, ?)", (kata, level, _now()))

    def record_solution(self, kata: str, gave_up: bool) -> None:
        """Record that our solution was shown, after a pass or on giving up."""
        self._write(f"giving up `{kata}`", "INSERT INTO solutions VALUES (?, ?, ?)", (kata, bool(gave_up), _now()))

    def solved(self) -> dict[str, datetime]:
        """Return the katas that passed at least once, each with the time of its first pass."""
        rows = self._read("SELECT kata, min(at) FROM attempts WHERE passed GROUP BY kata ORDER BY min(at)")
        return {kata: datetime.fromisoformat(at) for kata, at in rows}

    def attempts(self, kata: str | None = None) -> tuple[Attempt, ...]:
        """Return the attempts at one kata, or at all of them, oldest first."""
        rows = self._read("SELECT * FROM attempts WHERE ?1 IS NULL OR kata = ?1 ORDER BY rowid", (kata,))
        return tuple(Attempt(k, bool(p), s, src, place, datetime.fromisoformat(at)) for k, p, s, src, place, at in rows)

    def predictions(self, lesson: str | None = None) -> tuple[Prediction, ...]:
        """Return the first answers given in one lesson, or in all of them, oldest first."""
        rows = self._read("SELECT * FROM predictions WHERE ?1 IS NULL OR lesson = ?1 ORDER BY rowid", (lesson,))
        return tuple(Prediction(where, k, q, a, bool(r), datetime.fromisoformat(at)) for where, k, q, a, r, at in rows)

    def hints_shown(self, kata: str) -> int:
        """Return the highest hint level shown for a kata, 0 where none was."""
        return int(self._read("SELECT coalesce(max(level), 0) FROM hints WHERE kata = ?", (kata,))[0][0])

    def given_up(self) -> frozenset[str]:
        """Return the katas whose solution was shown before they passed."""
        return frozenset(kata for (kata,) in self._read("SELECT DISTINCT kata FROM solutions WHERE gave_up"))

    def reset(self, katas: Iterable[str] | None = None, lessons: Iterable[str] = ()) -> None:
        """Forget these katas and the predictions of these lessons; ``katas=None`` forgets everything."""
        with self._transaction("the reset"):
            if katas is None:
                for statement in _FORGET_ALL:
                    self._connection.execute(statement)
                return
            for kata in katas:
                for statement in _FORGET_KATA:
                    self._connection.execute(statement, (kata,))
            for lesson in lessons:
                self._connection.execute("DELETE FROM predictions WHERE lesson = ?", (lesson,))

    def _read(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise ProgressError(f"{self.path} could not be read: {error}; try again") from error

    def _write(self, what: str, sql: str, values: tuple[Any, ...]) -> int:
        with self._transaction(what):
            return self._connection.execute(sql, values).rowcount

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        if self._problem:
            raise NotSavedError(f"{what} was not saved: {self._problem}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise NotSavedError(f"{what} was not saved: {_explain(error, self.path)}") from error
        finally:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")


def data_folder() -> Path:
    """Return the folder that holds the progress file: ``$BLACKBELT_HOME``, else the user's data folder."""
    chosen = os.environ.get("BLACKBELT_HOME")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_data_path("blackbelt", appauthor=False)


def open_progress() -> Progress:
    """Open the learner's record, creating it where there is none.

    A damaged file is renamed, with a line on standard error that says so. Raises :class:`NewerProgressError` for a file
    of a newer version. Where the file cannot be written, the record can still be read.
    """
    path = data_folder() / FILE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        identity = _identity(path)
        try:
            return Progress(path, _connect(path))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            _set_aside(path, identity, error)
            return Progress(path, _connect(path))
    except NewerProgressError:
        raise
    except (OSError, sqlite3.Error) as error:
        return Progress(path, _read_only(path), problem=_explain(error, path))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _refuse_newer(connection, path)
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)
    _refuse_foreign(connection)
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous=FULL")
    if _tables(connection) >= _COLUMNS.keys():
        return
    connection.execute("BEGIN IMMEDIATE")  # two processes may create the file at the same moment
    try:
        if not _tables(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise NewerProgressError(
            f"{path} has version {version}, and this course reads up to version {SCHEMA_VERSION}. It was left as it "
            "is; get the newer course, or set BLACKBELT_HOME to another folder"
        )


def _refuse_foreign(connection: sqlite3.Connection) -> None:
    if _tables(connection) and not _tables(connection) >= _COLUMNS.keys():
        raise sqlite3.DatabaseError("its tables are not ours")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead mode. SQLite's own busy timeout does not cover this switch, so wait here."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _tables(connection: sqlite3.Connection) -> frozenset[str]:
    return frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))


def _identity(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _set_aside(path: Path, identity: tuple[int, int] | None, error: sqlite3.Error) -> None:
    """Rename a damaged file and what belongs to it, unless another process did so since ``identity`` was taken."""
    if identity is None or _identity(path) != identity:
        return
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    kept = path.with_name(f"progress.damaged-{stamp}.sqlite")
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
    sys.stderr.write(f"{path} is damaged ({error}). It is kept as {kept.name}; a new record was begun.\n")


def _read_only(path: Path) -> sqlite3.Connection:
    """Return what can be read of the file, or an empty record."""
    for options in ("mode=ro", "immutable=1"):  # a write-ahead file in a read-only folder opens only as immutable
        connection = None
        try:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None)
            _refuse_newer(connection, path)
            if _tables(connection) >= _COLUMNS.keys():
                return connection
            connection.close()
        except sqlite3.Error:
            if connection:
                connection.close()
    empty = sqlite3.connect(":memory:", isolation_level=None)
    for statement in _SCHEMA:
        empty.execute(statement)
    return empty


def _explain(error: Exception, path: Path) -> str:
    words = str(error)
    if "is full" in words or "No space left" in words or _is_full(path.parent):  # SQLite may call it "disk I/O error"
        return f"the disk that holds {path.parent} is full; free some space and try again"
    if "locked" in words:
        return f"another process has been writing to {path} for over {BUSY_SECONDS:.0f} s; try again when it has ended"
    cause = words if isinstance(error, OSError) else f"{path}: {words}"
    return f"{cause}; make {path.parent} writable, or set BLACKBELT_HOME to a folder that is"


def _is_full(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < 64 * 1024
    return False


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
