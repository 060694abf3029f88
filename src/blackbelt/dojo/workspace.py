"""The learner's own folder: lessons are copied there, and a newer course is merged into what the learner wrote.

A copy remembers which cells it was given, as ``[id, hash]`` pairs in the notebook's ``metadata.blackbelt.cells``. When
the course changes, cells that the learner edited or added stay, untouched ones follow the course, new ones appear in
the course's order, and those the learner deleted stay deleted. Imports no torch.
"""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from blackbelt.dojo.catalog import LessonEntry
from blackbelt.dojo.notebooks import source_hash, write_notebook

DEFAULT_FOLDER = "~/pytorch-black-belt"


class WorkspaceError(OSError):
    """A lesson cannot be placed in the learner's folder."""

    exit_code = 3


def workspace_folder() -> Path:
    """Return the learner's folder: ``$BLACKBELT_WORKSPACE``, else ``~/pytorch-black-belt``."""
    return Path(os.environ.get("BLACKBELT_WORKSPACE") or DEFAULT_FOLDER).expanduser().absolute()


def lesson_path(entry: LessonEntry) -> Path:
    """Return where the learner's copy of a lesson is, or will be."""
    return workspace_folder() / entry.notebook_path.parent.name / entry.notebook_path.name


def say_nothing(_: str) -> None:
    """The listener of those who do not want to hear."""


def copy_lesson(entry: LessonEntry, tell: Callable[[str], None] = say_nothing) -> Path:
    """Copy a lesson to the learner's folder, or bring the copy there up to date, and return its path.

    ``tell`` receives a sentence for each thing that the learner should know: what was merged, and where what was there
    before is kept. A notebook that cannot be read is set aside, one that cannot be written is left as it is.
    Raises :class:`WorkspaceError` where the course has no notebook for the lesson; OSError where the folder refuses.
    """
    course = _course_notebook(entry)
    path = lesson_path(entry)
    mine = _read_mine(path, tell) if path.exists() else None
    if mine is None:
        write_notebook(course, path)
        return path
    shipped = _shipped(mine)
    if shipped == _shipped(course):
        return path
    if not _is_writable(path):
        tell(
            f"{path} is read-only: it was left as it is, without what is new in the course; make it writable to get it"
        )
        return path
    merged = merge(course, mine)
    backup = _back_up(path)
    write_notebook(merged, path)
    tell(f"The course has changed: its news are in {path.name}, and your cells stay. The notebook as it was: {backup}")
    return path


def merge(course: Any, mine: Any) -> Any:
    """Return the learner's notebook ``mine``, brought up to date with ``course`` (both ``nbformat`` nodes)."""
    shipped = dict(_shipped(mine))
    _identify(mine, shipped)
    in_course = {cell.id for cell in course.cells}
    given = {cell.id: cell for cell in mine.cells if cell.id in in_course}
    own = _own_cells(mine, in_course, shipped)
    cells = list(own[""])
    for cell in course.cells:
        old = given.get(cell.id)
        if old is None:
            was_deleted = shipped.get(cell.id) == source_hash(cell.source)
            cells += [] if was_deleted else [cell]
        elif old.source == cell.source or source_hash(old.source) == shipped.get(cell.id):
            cells.append(_updated(cell, old))
        else:
            cells.append(old)
        cells += own[cell.id]
    mine.cells = cells
    mine.metadata["blackbelt"] = course.metadata["blackbelt"]
    mine.nbformat_minor = max(mine.nbformat_minor, course.nbformat_minor)
    return mine


def _own_cells(mine: Any, in_course: set[str], shipped: dict[str, str]) -> dict[str, list[Any]]:
    """The learner's cells by the id of the course cell they follow: added ones, and edited ones the course dropped."""
    own: dict[str, list[Any]] = defaultdict(list)
    last = ""
    for cell in mine.cells:
        if cell.id in in_course:
            last = cell.id
        elif source_hash(cell.source) != shipped.get(cell.id):
            own[last].append(cell)
    return own


def _updated(cell: Any, old: Any) -> Any:
    """An untouched cell in the course's present form; what it has put out stays as long as its source is the same."""
    if cell.source == old.source and cell.cell_type == "code" and old.cell_type == "code":
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    cell.metadata = {**old.metadata, **cell.metadata}
    return cell


def _identify(mine: Any, shipped: dict[str, str]) -> None:
    """Give every cell an id of its own. Some editors drop ids, and a copied cell carries the marks of the original."""
    seen: set[str] = set()
    present = {cell.get("id") for cell in mine.cells}
    lost = {digest: identity for identity, digest in shipped.items() if identity not in present}
    for cell in mine.cells:
        if cell.get("id") is None:
            cell["id"] = lost.pop(str(_marks(cell).get("hash")), None) or uuid.uuid4().hex[:8]
        if cell.id in seen:
            cell["id"] = uuid.uuid4().hex[:8]
        seen.add(cell.id)


def _shipped(notebook: Any) -> list[tuple[str, str]]:
    """The cells a notebook was given, as (id, hash of the source); without such a list, the marks on the cells tell."""
    listed = _marks(notebook).get("cells")
    if isinstance(listed, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in listed):
        return [(str(identity), str(digest)) for identity, digest in listed]
    marked = [(cell.get("id"), _marks(cell).get("hash")) for cell in notebook.cells]
    return [(identity, digest) for identity, digest in marked if isinstance(identity, str) and isinstance(digest, str)]


def _marks(node: Any) -> dict[str, Any]:
    marks = node.metadata.get("blackbelt")
    return marks if isinstance(marks, dict) else {}


def _course_notebook(entry: LessonEntry) -> Any:
    """The built notebook without outputs, and with the list of its cells."""
    import nbformat

    if not entry.notebook_path.exists():
        raise WorkspaceError(
            f"lesson {entry.number} ({entry.slug}) has no notebook at {entry.notebook_path}; authors make it with "
            f"`blackbelt build {entry.number}`"
        )
    notebook = nbformat.read(entry.notebook_path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    cells = [[cell.id, source_hash(cell.source)] for cell in notebook.cells]
    notebook.metadata["blackbelt"] = {"lesson": entry.slug, "cells": cells}
    return notebook


def _read_mine(path: Path, tell: Callable[[str], None]) -> Any:
    import nbformat

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing and doubled ids are mended in merge
            notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        "".join(cell.source for cell in notebook.cells)  # raises where a cell has no text
    except (ValueError, AttributeError, KeyError, TypeError, nbformat.ValidationError):
        kept = path.with_name(f"{path.stem}.damaged-{_stamp()}{path.suffix}")
        path.rename(kept)
        tell(f"{path.name} is not a notebook that can be read. It is kept as {kept.name}; a fresh copy was made.")
        return None
    return notebook


def _is_writable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o200) and os.access(path, os.W_OK)


def _back_up(path: Path) -> Path:
    backup = workspace_folder() / "backups" / path.parent.name / f"{path.stem}.{_stamp()}{path.suffix}"
    backup.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, backup)
    return backup


def _stamp() -> str:
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")
