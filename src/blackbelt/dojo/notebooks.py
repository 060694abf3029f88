"""Lessons become notebooks: ``lessons/*.py`` is the only source, ``notebooks/*.ipynb`` is generated and never edited.

Composing runs nothing and imports no torch. :func:`build` executes what was composed and keeps the outputs, cleaned of
all that belongs to one machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blackbelt.dojo.catalog import KataEntry, LessonEntry, katas

if TYPE_CHECKING:
    from blackbelt.dojo.execution import LessonRun, Listener

# The one place that says where the course is published: badges, the Colab cell and their tests read it from here.
REPOSITORY = "takzen/pytorch-black-belt"
BRANCH = "main"

BADGE = "https://colab.research.google.com/assets/colab-badge.svg"

# What the course needs and Colab may lack. All that is heavy (torch, numpy, matplotlib, Jupyter itself) is there.
LIGHT_REQUIREMENTS = ("cloudpickle", "einops", "hypothesis", "opt_einsum", "platformdirs", "psutil", "rich", "typer")

INSTALL = f"""\
# On Colab: add the course beside the libraries that are there, and change none of them. Elsewhere: do nothing.
import sys

if "google.colab" in sys.modules:
    import importlib.util
    import os
    import pathlib
    import subprocess
    import tempfile

    course = os.environ.get("BLACKBELT_SOURCE", "git+https://github.com/{REPOSITORY}@{BRANCH}")
    missing = [name for name in {LIGHT_REQUIREMENTS!r} if not importlib.util.find_spec(name)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    kept = pathlib.Path(tempfile.mkdtemp(), "kept.txt")  # what is there now, in the versions it has
    kept.write_bytes(subprocess.run([*pip, "list", "--format=freeze"], check=True, capture_output=True).stdout)
    subprocess.run([*pip, "install", "--no-deps", course], check=True)
    if missing:
        subprocess.run([*pip, "install", "--constraint", str(kept), *missing], check=True)
    importlib.invalidate_caches()"""


class BuildError(ValueError):
    """A lesson that cannot be made into a notebook: an unknown kata, a kata cell with a body, no cells at all."""


def compose(lesson: LessonEntry, course_katas: Iterable[KataEntry] | None = None) -> Any:
    """Return the lesson as a notebook (``nbformat`` node) without outputs: badge, Colab cell, the lesson's own cells.

    Every cell has an id that follows from its content, and ``metadata.blackbelt.hash``: the start of the SHA-256 of its
    source as shipped, which tells an edited cell from an untouched one. Raises :class:`BuildError`.
    """
    from nbformat import v4

    by_name = {entry.name: entry for entry in (katas() if course_katas is None else course_katas)}
    cells = [
        _cell("markdown", _badge(lesson), "colab-badge"),
        _cell("code", INSTALL, "colab-install"),
    ]
    taken: dict[str, int] = {}
    for read in _read(lesson):
        name = read.metadata.get("kata")
        if name is not None:
            cells.extend(_kata_cells(lesson, name, read.source, by_name))
            continue
        identity = f"{read.cell_type}-{source_hash(read.source)[:10]}"
        taken[identity] = taken.get(identity, 0) + 1
        suffix = f"-{taken[identity]}" if taken[identity] > 1 else ""
        cells.append(_cell(read.cell_type, read.source, identity + suffix, tags=read.metadata.get("tags")))
    _refuse_duplicates(lesson, [cell.id for cell in cells])
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "blackbelt": {"lesson": lesson.slug},
    }
    return v4.new_notebook(cells=cells, metadata=metadata)


def write_notebook(notebook: Any, path: Path) -> None:
    """Write ``notebook`` to ``path``, the same bytes for the same content, replacing what is there in one step."""
    import nbformat

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(nbformat.writes(notebook, version=4).rstrip("\n") + "\n", encoding="utf-8", newline="\n")
    partial.replace(path)


def build(lesson: LessonEntry, workdir: Path, listener: Listener | None = None) -> LessonRun:
    """Compose the lesson, execute it (torch is imported in the kernel only) and write its notebook with clean outputs.

    The notebook is written even when a cell failed or a claim was false, so that it can be looked at; ``build --check``
    then refuses it. ``workdir`` receives the raw executed notebook and the ledger.
    """
    import nbformat

    from blackbelt.dojo.execution import run_lessons
    from blackbelt.dojo.outputs import clean_outputs

    (run,) = run_lessons([lesson], workdir, listener=listener)
    executed = nbformat.read(run.notebook_path, as_version=4)
    clean_outputs(executed)
    executed.metadata["language_info"] = {"name": "python"}
    executed.metadata["blackbelt"] = {"lesson": lesson.slug, **run.for_notebook()}
    write_notebook(executed, lesson.notebook_path)
    return run


def colab_url(lesson: LessonEntry) -> str:
    """Return the address that opens the lesson's notebook on Colab."""
    path = "/".join(lesson.notebook_path.parts[-3:])
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/{BRANCH}/{path}"


def _badge(lesson: LessonEntry) -> str:
    return f"[![Open in Colab]({BADGE})]({colab_url(lesson)})"


def _read(lesson: LessonEntry) -> list[Any]:
    import jupytext

    text = lesson.source_path.read_text(encoding="utf-8")
    if "# %%" not in text:
        raise BuildError(
            f"lesson {lesson.slug}: no cell found; a lesson is a percent-format file whose cells begin with `# %%`"
        )
    cells: list[Any] = jupytext.reads(text, fmt="py:percent").cells
    return [cell for cell in cells if cell.source.strip() or "kata" in cell.metadata]


def _kata_cells(lesson: LessonEntry, name: str, body: str, by_name: dict[str, KataEntry]) -> list[Any]:
    entry = by_name.get(name)
    if entry is None:
        known = ", ".join(other.name for other in by_name.values() if other.lesson == lesson.slug)
        raise BuildError(
            f'lesson {lesson.slug}: a cell says kata="{name}", and no kata has that name; '
            f"those of this lesson are: {known or 'none'}"
        )
    if body.strip():
        raise BuildError(f'lesson {lesson.slug}: the cell kata="{name}" must be empty; the kata\'s file holds its text')
    return [
        _cell("markdown", _statement(entry), f"kata-{name}-statement"[:64]),
        _cell("code", f"{entry.stub}\n\n\ncheck({name})", f"kata-{name}"[:64], kata=name),
    ]


def _statement(entry: KataEntry) -> str:
    return (
        f"### Kata: {entry.title}\n\n"
        f"*{entry.belt} belt, about {entry.minutes} minutes*\n\n"
        f"{entry.statement}\n\n"
        f"Stuck? `!blackbelt hint {entry.name}` in a cell (or without the `!` in a terminal) gives one hint at a time."
    )


def _cell(kind: str, source: str, identity: str, *, tags: list[str] | None = None, kata: str | None = None) -> Any:
    from nbformat import v4

    shipped = {"hash": source_hash(source), **({"kata": kata} if kata else {})}
    metadata = {"blackbelt": shipped, **({"tags": list(tags)} if tags else {})}
    if kind == "code":
        return v4.new_code_cell(source, id=identity, metadata=metadata)
    if kind == "markdown":
        return v4.new_markdown_cell(source, id=identity, metadata=metadata)
    raise BuildError(f"a lesson holds Markdown and code cells; a {kind} cell was found: {source[:60]!r}")


def source_hash(source: str) -> str:
    """Return the start of the SHA-256 of a cell's source: what tells an edited cell from an untouched one."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _refuse_duplicates(lesson: LessonEntry, identities: list[str]) -> None:
    doubled = sorted({identity for identity in identities if identities.count(identity) > 1})
    if doubled:
        raise BuildError(
            f"lesson {lesson.slug}: two cells share an id ({', '.join(doubled)}); a kata appears once in a lesson"
        )
