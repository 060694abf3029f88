"""The learner's own folder: lessons are copied there, and a newer course is merged into what the learner wrote.

A copy remembers which cells it was given, as ``[id, hash]`` pairs in the notebook's ``metadata.blackbelt.cells``. When
the course changes, cells that the learner edited or added stay, untouched ones follow the course, new ones appear in
the course's order, and those the learner deleted stay deleted.

Notebooks are read and written as the JSON that they are: importing ``nbformat`` takes longer than all else that is done
here, and Ctrl-C would wait for it to be torn down. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from blackbelt.dojo.catalog import LessonEntry
from blackbelt.dojo.notebooks import source_hash

DEFAULT_FOLDER = "~/pytorch-black-belt"
Notebook = dict[str, Any]  # the JSON of nbformat 4, every source one string
Cell = dict[str, Any]


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
        _write(course, path)
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
    _write(merged, path)
    tell(f"The course has changed: its news are in {path.name}, and your cells stay. The notebook as it was: {backup}")
    return path


def merge(course: Notebook, mine: Notebook) -> Notebook:
    """Return the learner's notebook ``mine``, brought up to date with ``course``."""
    shipped = dict(_shipped(mine))
    _identify(mine, shipped)
    in_course = {cell["id"] for cell in course["cells"]}
    given = {cell["id"]: cell for cell in mine["cells"] if cell["id"] in in_course}
    own = _own_cells(mine, in_course, shipped)
    cells = list(own[""])
    for cell in course["cells"]:
        identity = cell["id"]
        old = given.get(identity)
        if old is None:
            was_deleted = shipped.get(identity) == source_hash(cell["source"])
            cells += [] if was_deleted else [cell]
        elif old["source"] == cell["source"] or source_hash(old["source"]) == shipped.get(identity):
            cells.append(_updated(cell, old))
        else:
            cells.append(old)
        cells += own[identity]
    metadata = {**mine["metadata"], "blackbelt": course["metadata"]["blackbelt"]}
    minor = max(mine.get("nbformat_minor", 0), course["nbformat_minor"])
    return {**mine, "cells": cells, "metadata": metadata, "nbformat_minor": minor}


def _own_cells(mine: Notebook, in_course: set[str], shipped: dict[str, str]) -> dict[str, list[Cell]]:
    """The learner's cells by the id of the course cell they follow: added ones, and edited ones the course dropped."""
    own: dict[str, list[Cell]] = defaultdict(list)
    last = ""
    for cell in mine["cells"]:
        if cell["id"] in in_course:
            last = cell["id"]
        elif source_hash(cell["source"]) != shipped.get(cell["id"]):
            own[last].append(cell)
    return own


def _updated(cell: Cell, old: Cell) -> Cell:
    """An untouched cell in the course's present form; what it has put out stays as long as its source is the same."""
    kept: Cell = {}
    if cell["source"] == old["source"] and cell["cell_type"] == old["cell_type"] == "code":
        kept = {key: old[key] for key in ("outputs", "execution_count") if key in old}
    return {**cell, **kept, "metadata": {**old["metadata"], **cell["metadata"]}}


def _identify(mine: Notebook, shipped: dict[str, str]) -> None:
    """Give every cell an id of its own. Some editors drop ids, and some give a copied cell the id of the original."""
    seen: set[str] = set()
    present = {cell.get("id") for cell in mine["cells"]}
    lost = {digest: identity for identity, digest in shipped.items() if identity not in present}
    for cell in mine["cells"]:
        if not isinstance(cell.get("id"), str):
            cell["id"] = lost.pop(str(_marks(cell).get("hash")), None) or _fresh_id()
        if cell["id"] in seen:
            cell["id"] = _fresh_id()
        seen.add(cell["id"])


def _shipped(notebook: Notebook) -> list[tuple[str, str]]:
    """The cells a notebook was given, as (id, hash of the source); without such a list, the marks on the cells tell."""
    listed = _marks(notebook).get("cells")
    if isinstance(listed, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in listed):
        return [(str(identity), str(digest)) for identity, digest in listed]
    marked = [(cell.get("id"), _marks(cell).get("hash")) for cell in notebook["cells"]]
    return [(identity, digest) for identity, digest in marked if isinstance(identity, str) and isinstance(digest, str)]


def _marks(node: dict[str, Any]) -> dict[str, Any]:
    marks = node["metadata"].get("blackbelt")
    return marks if isinstance(marks, dict) else {}


def _course_notebook(entry: LessonEntry) -> Notebook:
    """The built notebook without outputs, and with the list of its cells."""
    if not entry.notebook_path.exists():
        raise WorkspaceError(
            f"lesson {entry.number} ({entry.slug}) has no notebook at {entry.notebook_path}; authors make it with "
            f"`blackbelt build {entry.number}`"
        )
    notebook = _read(entry.notebook_path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
            cell["metadata"].pop("execution", None)
    notebook["metadata"].pop("widgets", None)
    cells = [[cell["id"], source_hash(cell["source"])] for cell in notebook["cells"]]
    notebook["metadata"]["blackbelt"] = {"lesson": entry.slug, "cells": cells}
    return notebook


def _read_mine(path: Path, tell: Callable[[str], None]) -> Notebook | None:
    try:
        return _read(path)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        kept = path.with_name(f"{path.stem}.damaged-{_stamp()}{path.suffix}")
        path.rename(kept)
        tell(f"{path.name} is not a notebook that can be read. It is kept as {kept.name}; a fresh copy was made.")
        return None


def _read(path: Path) -> Notebook:
    """Read a notebook of nbformat 4; raises one of several errors where it is none."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    if notebook["nbformat"] != 4:
        raise ValueError(f"nbformat {notebook['nbformat']}")
    notebook["metadata"].get("blackbelt")
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])  # a string, or a list of lines
        cell["metadata"].get("blackbelt")
        cell["cell_type"].lower()
    return notebook


def _write(notebook: Notebook, path: Path) -> None:
    """Write a notebook as Jupyter does, replacing what is there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{_fresh_id()}")
    try:
        text = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _is_writable(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o200) and os.access(path, os.W_OK)


def _back_up(path: Path) -> Path:
    backup = workspace_folder() / "backups" / path.parent.name / f"{path.stem}.{_stamp()}{path.suffix}"
    backup.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, backup)
    return backup


def _stamp() -> str:
    return datetime.now().strftime("%Y%m%d-%H%M%S-%f")


def _fresh_id() -> str:
    return uuid.uuid4().hex[:8]
