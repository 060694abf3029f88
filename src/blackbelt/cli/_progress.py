"""The bars that `run` and `build` show: one for each lesson under way, counting cells, and one for the lessons."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from blackbelt.dojo.catalog import LessonEntry
from blackbelt.dojo.execution import LessonRun


class CellProgress:
    """A listener for ``run_lessons`` that draws. ``on_result`` is called with each run as it ends.

    What ``on_result`` prints appears above the bars, on the stream that they are on.
    """

    def __init__(self, num_lessons: int, on_result: Callable[[LessonRun], None], *, stderr: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=Console(stderr=stderr, highlight=False),
            transient=True,
        )
        self._on_result = on_result
        self._all = self._progress.add_task("all", total=num_lessons, unit="lessons")
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> CellProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_start(self, lesson: LessonEntry, num_cells: int) -> None:
        title = f"{lesson.number} {lesson.name}"
        self._tasks[lesson.slug] = self._progress.add_task(title, total=num_cells, unit="cells")

    def on_cell(self, lesson: LessonEntry, cell: int) -> None:
        self._progress.update(self._tasks[lesson.slug], completed=cell - 1)  # this one only begins

    def on_end(self, run: LessonRun) -> None:
        self._progress.remove_task(self._tasks.pop(run.lesson))
        self._progress.advance(self._all)
        self._on_result(run)
