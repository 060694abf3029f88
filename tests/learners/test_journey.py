"""A learner's way through two modules: some right and some wrong answers, then all right, and the belts."""

from __future__ import annotations

import json
import subprocess
import sys

import nbformat
import pytest

from blackbelt.dojo.catalog import find_kata, lessons
from blackbelt.dojo.workspace import copy_lesson

TENSORS, AUTOGRAD = (tuple(entry for entry in lessons() if entry.module == name) for name in ("tensors", "autograd"))


def blackbelt(*arguments):
    command = [sys.executable, "-m", "blackbelt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def answer(path, answers):
    """Write each answer where a learner would: over the stub, in the kata's own cell."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        name = cell.metadata.get("blackbelt", {}).get("kata")
        if name in answers and cell.cell_type == "code":
            cell.source = f"{answers[name]}\n\n\ncheck({name})"
    nbformat.write(notebook, path)


def solve(entry, path):
    """Answer every kata of a lesson with the course's own solution; all must pass."""
    answer(path, {kata.name: kata.solution for kata in entry.katas})
    checked = blackbelt("check", entry.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def worn():
    return json.loads(blackbelt("progress", "--json").stdout)["belt"]


@pytest.mark.slow
@pytest.mark.xdist_group("heavy")
def test_from_the_first_wrong_answer_to_the_orange_belt():
    paths = {entry: copy_lesson(entry) for entry in (*TENSORS, *AUTOGRAD)}

    first, *others = TENSORS
    right, *wrong = (kata.name for kata in first.katas)
    answer(paths[first], {right: find_kata(right).solution, wrong[0]: f"def {wrong[0]}(*arguments):\n    return None"})
    checked = blackbelt("check", first.name, "--json")
    assert checked.returncode == 1, checked.stderr
    verdicts = {item["kata"]: item for item in json.loads(checked.stdout)["katas"]}
    assert verdicts[right]["status"] == "passed"
    assert verdicts[wrong[0]]["status"] == "failed"
    assert "None" in verdicts[wrong[0]]["sentence"]
    assert {verdicts[name]["status"] for name in wrong[1:]} == {"open"}
    assert worn() == "white"

    for entry in (first, *others):
        solve(entry, paths[entry])
    assert worn() == "yellow"

    for entry in AUTOGRAD:
        solve(entry, paths[entry])
    assert worn() == "orange"
    assert blackbelt("solution", right).stdout.strip() == find_kata(right).solution.strip()
