"""A learner's way through Module 1: some right and some wrong answers, then all right, and the belt."""

from __future__ import annotations

import json
import subprocess
import sys

import nbformat
import pytest

from blackbelt.dojo.catalog import find_kata, lessons
from blackbelt.dojo.workspace import copy_lesson

MODULE = tuple(entry for entry in lessons() if entry.module == "tensors")


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


@pytest.mark.xdist_group("heavy")
def test_from_the_first_wrong_answer_to_the_yellow_belt():
    paths = {entry: copy_lesson(entry) for entry in MODULE}

    first, others = MODULE[0], MODULE[1:]
    right, *wrong = (kata.name for kata in first.katas)
    answer(paths[first], {right: find_kata(right).solution, wrong[0]: f"def {wrong[0]}(*arguments):\n    return None"})
    checked = blackbelt("check", first.name, "--json")
    assert checked.returncode == 1, checked.stderr
    verdicts = {item["kata"]: item for item in json.loads(checked.stdout)["katas"]}
    assert verdicts[right]["status"] == "passed"
    assert verdicts[wrong[0]]["status"] == "failed"
    assert "None" in verdicts[wrong[0]]["sentence"]
    assert {verdicts[name]["status"] for name in wrong[1:]} == {"open"}
    assert json.loads(blackbelt("progress", "--json").stdout)["belt"] == "white"

    for entry in (first, *others):
        answer(paths[entry], {kata.name: kata.solution for kata in entry.katas})
        checked = blackbelt("check", entry.name)
        assert checked.returncode == 0, checked.stdout + checked.stderr

    progress = json.loads(blackbelt("progress", "--json").stdout)
    assert progress["belt"] == "yellow"
    assert blackbelt("solution", right).stdout.strip() == find_kata(right).solution.strip()
