"""Lessons run headless: each in a kernel of this interpreter, several at a time.

Their claims are collected from the ledger. Importing this imports no torch; the kernels do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from blackbelt.dojo.catalog import LessonEntry
from blackbelt.dojo.lesson import FALSE, NOT_SHOWN_HERE, SHOWN
from blackbelt.dojo.notebooks import compose, write_notebook

JOBS = 2


class Listener(Protocol):
    """Who watches a run. Called from the thread that runs the lessons."""

    def on_start(self, lesson: LessonEntry, num_cells: int) -> None: ...

    def on_cell(self, lesson: LessonEntry, cell: int) -> None: ...

    def on_end(self, run: LessonRun) -> None: ...


@dataclass(frozen=True)
class CellFailure:
    """The cell that stopped a lesson: ``cell`` counts from 1 as an editor shows it; ``message`` is one line."""

    cell: int
    source: str
    message: str
    traceback: str


@dataclass(frozen=True)
class LessonRun:
    """What one execution of a lesson showed. ``claims`` and ``predictions`` are the ledger's entries, in order.

    ``torch_version`` and ``device`` are empty where the lesson failed before its ``begin``.
    """

    lesson: str
    number: str
    seconds: float
    claims: tuple[dict[str, Any], ...]
    predictions: tuple[dict[str, Any], ...]
    torch_version: str
    device: str
    failure: CellFailure | None
    notebook_path: Path
    ledger_path: Path

    @property
    def shown(self) -> tuple[str, ...]:
        """The claims that held."""
        return self._with_status(SHOWN)

    @property
    def not_shown(self) -> tuple[str, ...]:
        """The claims that need hardware this machine lacks."""
        return self._with_status(NOT_SHOWN_HERE)

    @property
    def false(self) -> tuple[str, ...]:
        """The claims that did not hold."""
        return self._with_status(FALSE)

    @property
    def ok(self) -> bool:
        """No cell failed, no claim was false."""
        return self.failure is None and not self.false

    def for_notebook(self) -> dict[str, Any]:
        """Return what a built notebook says of the run it holds: no times and no paths, they belong to one machine."""
        counts = {"shown": len(self.shown), "not_shown": len(self.not_shown), "false": list(self.false)}
        return {"claims": counts, "torch": self.torch_version, "device": self.device}

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON-ready values."""
        failure = self.failure and {"cell": self.failure.cell, "message": self.failure.message}
        return {
            "lesson": self.lesson,
            "number": self.number,
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "claims": {"shown": list(self.shown), "not_shown": list(self.not_shown), "false": list(self.false)},
            "predictions": len(self.predictions),
            "torch": self.torch_version,
            "device": self.device,
            "failure": failure,
            "notebook": str(self.notebook_path),
            "ledger": str(self.ledger_path),
        }

    def _with_status(self, status: str) -> tuple[str, ...]:
        return tuple(claim["text"] for claim in self.claims if claim["status"] == status)


def run_lessons(
    lessons: Sequence[LessonEntry],
    folder: Path,
    *,
    jobs: int = JOBS,
    listener: Listener | None = None,
    cell_timeout: int | None = None,
) -> list[LessonRun]:
    """Execute ``lessons``, at most ``jobs`` at a time, and return what each showed, in the order given.

    ``folder`` receives per lesson the executed notebook, ``1.2_strides.ipynb``, and its ledger,
    ``1.2_strides.ledger.json``. ``cell_timeout`` (seconds) turns a cell that never ends into a failure. On
    KeyboardInterrupt, or any other exception here, the kernels and what they started are killed before it goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    session = _Session(folder, max(1, min(jobs, len(lessons))), listener, cell_timeout)
    outcome: Future[list[LessonRun]] = Future()

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(session.run_all(lessons)))
        except BaseException as error:  # also CancelledError: the caller must learn of everything
            outcome.set_exception(error)

    # In a thread of its own, because nbclient puts signal handlers of its own on a loop in the main thread: with two
    # clients the second's replace the first's, and a shutdown on Ctrl-C would wait for kernels that are busy.
    thread = threading.Thread(target=work, name="blackbelt-run", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)  # short, so that Windows sees Ctrl-C too
    except BaseException:
        session.stop()
        thread.join(0.4)
        raise
    return outcome.result()


class _Session:
    """The kernels of one call to :func:`run_lessons`, and the power to end them from another thread."""

    def __init__(self, folder: Path, jobs: int, listener: Listener | None, cell_timeout: int | None) -> None:
        self.folder = folder
        self.jobs = jobs
        self.listener = listener
        self.cell_timeout = cell_timeout
        self.stopped = False
        self.managers: list[Any] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    async def run_all(self, lessons: Sequence[LessonEntry]) -> list[LessonRun]:
        self.loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(self.jobs)

        async def one(lesson: LessonEntry) -> LessonRun:
            async with gate:
                return await self.run(lesson)

        return list(await asyncio.gather(*(one(lesson) for lesson in lessons)))

    async def run(self, lesson: LessonEntry) -> LessonRun:
        notebook = compose(lesson)
        code_cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if self.listener:
            self.listener.on_start(lesson, len(code_cells))
        stem = f"{lesson.number}_{lesson.name}"
        with tempfile.TemporaryDirectory(prefix="blackbelt-", ignore_cleanup_errors=True) as scratch:
            ledger = Path(scratch, "ledger.json")
            start = time.perf_counter()
            failure = await self._execute(lesson, notebook, Path(scratch), ledger)
            seconds = time.perf_counter() - start
            kept_ledger = self.folder / f"{stem}.ledger.json"
            record = _keep_ledger(ledger, kept_ledger)
        path = self.folder / f"{stem}.ipynb"
        write_notebook(notebook, path)
        run = LessonRun(
            lesson=lesson.slug,
            number=lesson.number,
            seconds=seconds,
            claims=tuple(record.get("claims", ())),
            predictions=tuple(record.get("predictions", ())),
            torch_version=record.get("torch_version", ""),
            device=record.get("device", ""),
            failure=failure,
            notebook_path=path,
            ledger_path=kept_ledger,
        )
        if self.listener:
            self.listener.on_end(run)
        return run

    async def _execute(self, lesson: LessonEntry, notebook: Any, scratch: Path, ledger: Path) -> CellFailure | None:
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

        position = 0

        def on_cell(cell: Any, cell_index: int) -> None:
            nonlocal position
            position = cell_index
            if self.listener and cell.cell_type == "code":
                number = sum(other.cell_type == "code" for other in notebook.cells[: cell_index + 1])
                self.listener.on_cell(lesson, number)

        manager = _own_kernel()
        self.managers.append(manager)
        client: Any = NotebookClient(
            notebook,
            km=manager,
            timeout=self.cell_timeout,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            shutdown_kernel="immediate",
            on_cell_execute=on_cell,
        )
        # nbclient's exit handler, which an interrupted start leaves behind, waits forever for a loop that is gone. The
        # kernel is ended here in every case.
        client._cleanup_kernel = lambda: None  # noqa: SLF001
        workdir = scratch / "work"
        workdir.mkdir()
        stderr_path = scratch / "stderr"
        try:
            with stderr_path.open("wb") as stderr:
                await client.async_execute(
                    cleanup_kc=True, cwd=str(workdir), env=self._environment(ledger), stdout=stderr, stderr=stderr
                )
        except CellExecutionError as error:
            return _failure(notebook, position, f"{error.ename}: {error.evalue}".strip(), str(error.traceback))
        except CellTimeoutError:
            return _failure(notebook, position, f"the cell did not end within {self.cell_timeout} seconds", "")
        except DeadKernelError:
            said = stderr_path.read_text(encoding="utf-8", errors="replace")[-2000:]
            return _failure(notebook, position, "the kernel died in this cell", said)
        finally:
            _kill(manager)  # already gone, unless this was interrupted while the kernel started
            self.managers.remove(manager)
            if self.stopped:
                raise asyncio.CancelledError
        return None

    def _environment(self, ledger: Path) -> dict[str, str]:
        environment = {**os.environ, "BLACKBELT_HEADLESS": "1", "BLACKBELT_LEDGER": str(ledger)}
        if self.jobs > 1:
            # Each kernel gets its share of the cores; two that each use all of them spend their time waiting.
            share = str(max(1, (os.cpu_count() or 1) // self.jobs))
            environment.setdefault("OMP_NUM_THREADS", share)
            environment.setdefault("MKL_NUM_THREADS", share)
        return environment

    def stop(self) -> None:
        """Kill every kernel and all that descends from it, and cancel what waits. For use from another thread."""
        self.stopped = True
        for manager in list(self.managers):
            _kill(manager)
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks()])


def _own_kernel() -> Any:
    """Return a manager for a kernel of the interpreter that runs this."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    # No folder to search leaves the kernel of this interpreter, whatever a `python3` kernel that the user installed
    # elsewhere points to.
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))


def _failure(notebook: Any, position: int, message: str, traceback: str) -> CellFailure:
    first_line = message.splitlines()[0] if message else "the cell failed"
    return CellFailure(position + 1, notebook.cells[position].source, first_line, traceback)


def _keep_ledger(path: Path, kept: Path) -> dict[str, Any]:
    """Move the ledger to ``kept`` and return it. A lesson that never reached ``begin`` wrote none, and keeps none."""
    kept.unlink(missing_ok=True)
    if not path.exists():
        return {}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    shutil.move(path, kept)
    return record


def _kill(manager: Any) -> None:
    import psutil

    process = getattr(manager.provisioner, "process", None)
    if process is None:
        return
    with contextlib.suppress(psutil.Error):
        kernel = psutil.Process(process.pid)
        for descendant in [*kernel.children(recursive=True), kernel]:
            with contextlib.suppress(psutil.Error):
                descendant.kill()
