"""Several processes of one training: each observes itself, and one of them, or their parent, tells of all.

They meet in a folder of files, never in the training's own process group: a collective more could block it. A rank
writes its report when something is found and when it ends, and facts that rules compare (:meth:`Ranks.publish`). Three
ways lead here: a script that starts processes of its own (``taps/processes.py``), ``torchrun … -m blackbelt doctor
train.py``, and ``blackbelt doctor -m torch.distributed.run … train.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import stat
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blackbelt.doctor.finding import Finding, Severity
from blackbelt.doctor.report import DoctorReport
from blackbelt.places import Place

FOLDER = "BLACKBELT_RANKS"  # environment variable: where the ranks that `blackbelt doctor` has launched meet
PATIENCE = 30.0  # seconds for which the first rank waits for others that are alive
ABSENT = 5.0  # seconds for which it waits for one that has not been seen


@dataclass(frozen=True)
class RankReport:
    """What one process tells. ``error`` is how its script failed, "" where it did not."""

    rank: int
    report: DoctorReport
    pid: int = 0
    ended: bool = False
    error: str = ""


@dataclass
class Ranks:
    """The folder in which processes meet, as one of them uses it."""

    folder: Path
    index: int  # of the process, which is its rank where nothing else says so
    error: str = ""  # how the script failed
    _rank: int | None = field(default=None, init=False)

    @property
    def rank(self) -> int:
        """The rank of this process in its default process group; once known, for good."""
        if self._rank is None:
            distributed = sys.modules.get("torch.distributed")
            if distributed is not None and distributed.is_available() and distributed.is_initialized():
                self._rank = int(distributed.get_rank())
        return self.index if self._rank is None else self._rank

    def write(self, report: DoctorReport, *, ended: bool = False) -> None:
        """Write down the report so far. Never raises: the folder may be gone."""
        words = {
            "rank": self.rank,
            "pid": os.getpid(),
            "ended": ended,
            "error": self.error,
            "num_steps": report.num_steps,
            "findings": [dataclasses.asdict(finding) for finding in report.findings],
            "failures": report.failures,
        }
        _write(self.folder / f"report-{self.index}.json", words)

    def publish(self, key: str, value: Any) -> None:
        """Let other ranks know a fact: something that JSON can hold."""
        _write(self.folder / f"fact-{key}.{self.rank}.json", value)

    def others(self, key: str) -> dict[int, Any]:
        """Return what other ranks have published under a key so far, by rank. Does not wait."""
        found = {}
        for path in self.folder.glob(f"fact-{key}.*.json"):
            rank = int(path.stem.rpartition(".")[2])
            if rank != self.rank and (value := _read(path)) is not None:
                found[rank] = value
        return found

    def is_first(self, finding: Finding) -> bool:
        """Return whether no other rank has said this yet, and take the word."""
        place = finding.place
        name = f"said-{finding.code}-{zlib.crc32(place.file.encode()) if place else 0}-{place.line if place else 0}"
        try:
            (self.folder / name).touch(exist_ok=False)
        except OSError:
            return False
        return True


def _write(path: Path, value: Any) -> None:
    with contextlib.suppress(OSError):
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(path)  # whoever reads it finds all of it


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_reports(folder: Path) -> list[RankReport]:
    """Return what the processes have written so far, by rank."""
    found = []
    for path in folder.glob("report-*.json"):
        words = _read(path)
        if words is not None:
            report = DoctorReport(
                tuple(map(_finding, words["findings"])), words["num_steps"], tuple(map(tuple, words["failures"]))
            )
            found.append(RankReport(words["rank"], report, words["pid"], words["ended"], words["error"]))
    return sorted(found, key=lambda rank: rank.rank)


def _finding(words: dict[str, Any]) -> Finding:
    place = Place(**words["place"]) if words["place"] else None
    ranks = tuple(words["ranks"])
    return Finding(**{**words, "severity": Severity(words["severity"]), "place": place, "ranks": ranks})


def merged(own: DoctorReport, ranks: Sequence[RankReport]) -> DoctorReport:
    """Return one report of all: what several ranks found at one line is said once, with their numbers."""
    if not ranks:
        return own
    from blackbelt.doctor.rule import all_rules

    told: dict[tuple[str, str, int], Finding] = {}
    heard = [(finding.ranks, finding) for finding in own.findings]
    heard += [((rank.rank,), finding) for rank in ranks for finding in rank.report.findings]
    for numbers, finding in heard:
        place = finding.place
        key = (finding.code, place.file if place else "", place.line if place else 0)
        first = told.get(key)
        known = first.ranks if first else ()
        severity = max(finding.severity, first.severity if first else finding.severity)
        told[key] = dataclasses.replace(first or finding, ranks=tuple(sorted({*known, *numbers})), severity=severity)
    codes = {finding.code for finding in told.values()}
    explained = {code for name, rule in all_rules().items() if name in codes for code in rule.explains}
    findings = [finding for finding in told.values() if finding.code not in explained]
    trained = [rank for rank in ranks if rank.report.num_steps]
    failures = [*own.failures, *(failure for rank in ranks for failure in rank.report.failures)]
    return dataclasses.replace(
        own,
        findings=tuple(sorted(findings, key=lambda finding: -finding.severity)),
        num_steps=own.num_steps + max(rank.report.num_steps for rank in ranks),
        failures=tuple(dict.fromkeys(failures)),
        ranks=tuple(rank.rank for rank in trained),
        unfinished=tuple(rank.rank for rank in ranks if not rank.ended),
    )


def from_environment() -> tuple[Ranks, bool] | None:
    """Return where this process meets the others that ``torchrun`` has started, and whether it tells of all.

    None where it was not started so, or alone. On several machines the first rank of each tells of its own.
    """
    environment = os.environ
    if folder := environment.get(FOLDER):
        return Ranks(Path(folder), int(environment.get("RANK", "0"))), False
    number = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    if "TORCHELASTIC_RUN_ID" not in environment or number < 2:
        return None
    parts = (environment["TORCHELASTIC_RUN_ID"], environment.get("TORCHELASTIC_RESTART_COUNT", "0"), str(os.getppid()))
    name = "-".join(["blackbelt-ranks", *("".join(c for c in part if c.isalnum()) for part in parts)])
    shared = _own_folder(Path(tempfile.gettempdir()) / name)
    if shared is None:
        return None
    return Ranks(shared, int(environment["RANK"])), environment.get("LOCAL_RANK") == "0"


def _own_folder(path: Path) -> Path | None:
    """Return a folder that nobody else can write to, made where it was missing; None where somebody else has it."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError:
        return None
    mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return path if mine and stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o022 else None


terminated = threading.Event()  # this process was sent a SIGTERM


def wait_for_others(ranks: Ranks) -> list[RankReport]:
    """Wait until the other ranks of this machine have ended or died, at most half a minute; return all reports.

    Only that long: a rank that waits for this one would never end while this one is here.
    """
    number = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    began = time.monotonic()
    while (waited := time.monotonic() - began) < PATIENCE:
        found = read_reports(ranks.folder)
        if all(rank.ended or not _is_alive(rank.pid) for rank in found) and (len(found) >= number or waited > ABSENT):
            break
        if terminated.wait(0.05):  # torchrun ends the ranks because another one has failed
            time.sleep(0.2)
            break
    return read_reports(ranks.folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def reporting(ranks: Ranks, report: Callable[[], DoctorReport]) -> Iterator[None]:
    """Write the report when the block begins, and when it ends, whichever way it does."""
    ranks.write(report())
    try:
        yield
    except BaseException as raised:
        left = isinstance(raised, SystemExit) and raised.code in (None, 0)
        ranks.error = "" if left else type(raised).__name__
        raise
    finally:
        ranks.write(report(), ended=True)
