"""The learner's copy: what they wrote stays, what they did not touch follows the course."""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from blackbelt.dojo import catalog
from blackbelt.dojo.catalog import LessonEntry, lessons
from blackbelt.dojo.workspace import WorkspaceError, copy_lesson, lesson_path, merge, workspace_folder


@pytest.fixture
def entry(tiny_course: Path) -> LessonEntry:
    assert tiny_course
    return next(entry for entry in lessons() if entry.name == "folds")


def read(path: Path):
    return nbformat.read(path, as_version=4)


def change_course(entry: LessonEntry, change) -> None:
    """Rewrite the built notebook as a later version of the course would be."""
    course = read(entry.notebook_path)
    change(course.cells)
    nbformat.write(course, entry.notebook_path)


def edit(path: Path, change) -> None:
    """What the learner's editor does."""
    mine = read(path)
    change(mine.cells)
    nbformat.write(mine, path)


def course_cell(source: str, identity: str):
    return nbformat.v4.new_code_cell(source, id=identity, metadata={"blackbelt": {"hash": "not looked at"}})


def sources(path: Path) -> list[str]:
    return [cell.source for cell in read(path).cells][2:]  # without the badge and the Colab cell


def test_a_copy_has_the_cells_and_none_of_the_outputs(entry):
    def executed(cells):
        cells[3].outputs = [nbformat.v4.new_output("stream", text="2")]
        cells[3].execution_count = 7
        cells[3].metadata["execution"] = {"iopub.status.busy": "yesterday"}

    change_course(entry, executed)
    path = copy_lesson(entry)
    assert path == workspace_folder() / "1_paper" / "2_folds.ipynb" == lesson_path(entry)
    assert sources(path) == ["# Folds of a sheet\n\nText.", "1 + 1", "2 + 2"]
    for cell in read(path).cells:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert "execution" not in cell.metadata
    nbformat.validate(read(path))


def test_the_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("BLACKBELT_WORKSPACE", "~/here")
    assert workspace_folder() == Path.home() / "here"
    monkeypatch.setenv("BLACKBELT_WORKSPACE", "")
    assert workspace_folder() == Path.home() / "pytorch-black-belt"


def test_the_same_course_touches_nothing(entry):
    path = copy_lesson(entry)
    edit(path, lambda cells: cells.reverse())
    before, told = path.read_bytes(), []
    assert copy_lesson(entry, told.append) == path
    assert path.read_bytes() == before
    assert told == []
    assert not (workspace_folder() / "backups").exists()


def test_a_changed_course_is_merged_and_the_previous_file_kept(entry):
    path = copy_lesson(entry)

    def learner(cells):
        cells[3].source = "1 + 1  # mine"
        cells.insert(4, nbformat.v4.new_code_cell("my own"))
        cells[5].outputs = [nbformat.v4.new_output("stream", text="4")]

    edit(path, learner)
    before = path.read_bytes()

    def author(cells):
        cells[2].source = "# Folds, better"
        cells[3].source = "1 + 1 == 2"
        cells.insert(3, course_cell("new in the middle", "new-1"))
        cells.append(course_cell("new at the end", "new-2"))

    change_course(entry, author)
    told = []
    copy_lesson(entry, told.append)
    assert sources(path) == [
        "# Folds, better",
        "new in the middle",
        "1 + 1  # mine",
        "my own",
        "2 + 2",
        "new at the end",
    ]
    assert read(path).cells[6].outputs[0].text == "4"
    (backup,) = (workspace_folder() / "backups" / "1_paper").iterdir()
    assert backup.read_bytes() == before
    assert told == [
        f"The course has changed: its news are in 2_folds.ipynb, and your cells stay. The notebook as it was: {backup}"
    ]
    nbformat.validate(read(path))
    told.clear()
    copy_lesson(entry, told.append)
    assert told == []


def test_removed_cells_go_unless_the_learner_edited_them(entry):
    change_course(entry, lambda cells: cells.insert(4, course_cell("also", "also")))
    path = copy_lesson(entry)
    edit(path, lambda cells: cells[4].update(source="also  # mine"))

    def author(cells):
        del cells[3:5]

    change_course(entry, author)
    copy_lesson(entry)
    assert sources(path) == ["# Folds of a sheet\n\nText.", "also  # mine", "2 + 2"]


def test_a_cell_the_learner_deleted_stays_deleted_until_the_course_changes_it(entry):
    path = copy_lesson(entry)

    def learner(cells):
        del cells[3:5]

    edit(path, learner)
    change_course(entry, lambda cells: cells[4].update(source="2 + 2 == 4"))
    copy_lesson(entry)
    assert sources(path) == ["# Folds of a sheet\n\nText.", "2 + 2 == 4"]


def test_a_copy_of_a_course_cell_is_the_learners(entry):
    path = copy_lesson(entry)

    def learner(cells):
        double = copy.deepcopy(cells[3])
        double.id = "fresh"
        cells.insert(4, double)

    edit(path, learner)
    change_course(entry, lambda cells: cells[3].update(source="1 + 1 == 2"))
    copy_lesson(entry)
    assert sources(path)[1:] == ["1 + 1 == 2", "1 + 1", "2 + 2"]


def test_a_cell_that_leaves_the_course_and_returns_is_there_once(entry):
    path = copy_lesson(entry)
    edit(path, lambda cells: cells[3].update(source="1 + 1  # mine"))
    course = read(entry.notebook_path)
    change_course(entry, lambda cells: cells.pop(3))
    copy_lesson(entry)
    nbformat.write(course, entry.notebook_path)
    copy_lesson(entry)
    assert sources(path)[1:] == ["1 + 1  # mine", "2 + 2"]


def test_an_editor_that_drops_ids_and_marks_loses_nothing(entry):
    path = copy_lesson(entry)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["nbformat_minor"] = 4
    for cell in content["cells"]:
        del cell["id"]
    content["cells"][3]["source"] = "1 + 1  # mine"
    path.write_text(json.dumps(content), encoding="utf-8")
    change_course(entry, lambda cells: cells[4].update(source="2 + 2 == 4"))
    copy_lesson(entry)
    assert sources(path) == ["# Folds of a sheet\n\nText.", "1 + 1  # mine", "2 + 2 == 4"]
    nbformat.validate(read(path))


def test_doubled_ids_are_told_apart(entry):
    course, mine = read(entry.notebook_path), read(copy_lesson(entry))
    mine.cells.append(copy.deepcopy(mine.cells[3]))
    mine.cells[-1].source = "mine too"
    merged = merge(read(copy_lesson(entry)), mine)["cells"]
    assert [cell["source"] for cell in merged] == [*(cell.source for cell in course.cells), "mine too"]
    assert len({cell["id"] for cell in merged}) == len(merged)


def test_without_the_list_the_marks_on_the_cells_tell(entry):
    path = copy_lesson(entry)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["metadata"]["blackbelt"] = "overwritten by an extension"
    content["cells"][4]["source"] = "2 + 2  # mine"
    path.write_text(json.dumps(content), encoding="utf-8")
    change_course(entry, lambda cells: (cells[3].update(source="1 + 1 == 2"), cells[4].update(source="2 + 2 == 4")))
    copy_lesson(entry)
    assert sources(path)[1:] == ["1 + 1 == 2", "2 + 2  # mine"]


# --- files that are not what they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "list", "no cells", "old", "bytes", "deep", "cell"])
def test_a_notebook_that_cannot_be_read_is_set_aside(entry, damage):
    path = copy_lesson(entry)
    content = path.read_bytes()
    broken = {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "text": b"print('hello')",
        "list": b"[]",
        "no cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        "old": b'{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}',
        "deep": b"[" * 100_000,
        "cell": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"source": 7}]}',
        "bytes": b"\xff\xfe\x00",
    }[damage]
    path.write_bytes(broken)
    told = []
    assert copy_lesson(entry, told.append) == path
    assert sources(path)[1:] == ["1 + 1", "2 + 2"]
    (kept,) = path.parent.glob("*damaged*")
    assert kept.read_bytes() == broken
    assert told == [
        f"2_folds.ipynb is not a notebook that can be read. It is kept as {kept.name}; a fresh copy was made."
    ]


def test_a_read_only_notebook_is_left_as_it_is(entry):
    path = copy_lesson(entry)
    before = path.read_bytes()
    path.chmod(0o444)
    change_course(entry, lambda cells: cells[4].update(source="2 + 2 == 4"))
    told = []
    assert copy_lesson(entry, told.append) == path
    assert path.read_bytes() == before
    assert told == [
        f"{path} is read-only: it was left as it is, without what is new in the course; make it writable to get it"
    ]


def test_a_write_that_fails_leaves_the_notebook_whole(entry, monkeypatch):
    path = copy_lesson(entry)
    edit(path, lambda cells: cells[3].update(source="1 + 1  # mine"))
    before = path.read_bytes()
    change_course(entry, lambda cells: cells[4].update(source="2 + 2 == 4"))

    def full(partial, text, **_):
        partial.write_bytes(text[:100].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        copy_lesson(entry)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_lesson_without_a_built_notebook_says_how_to_make_it(entry):
    entry.notebook_path.unlink()
    with pytest.raises(
        WorkspaceError, match=r"lesson 1\.2 \(paper/folds\) has no notebook at .* `blackbelt build 1\.2`"
    ):
        copy_lesson(entry)


def test_a_copy_is_made_without_the_slow_imports(entry):
    program = (
        "import sys\nfrom pathlib import Path\nfrom blackbelt.dojo import catalog\n"
        "catalog.PACKAGE = Path(sys.argv[1])\n"
        "from blackbelt.dojo.workspace import copy_lesson\ncopy_lesson(catalog.lessons()[1])\n"
        "sys.exit(' '.join({'torch', 'nbformat', 'jupytext'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, str(catalog.PACKAGE)]
    assert subprocess.run(command, check=False, capture_output=True, text=True).stderr.strip() == ""
    assert lesson_path(entry).exists()
