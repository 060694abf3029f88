"""Every lesson is executed from its first cell to its last, and every claim in it is checked."""

from __future__ import annotations

import json

import nbformat
import pytest

from blackbelt.dojo.catalog import lessons
from blackbelt.dojo.execution import run_lessons

CELL_SECONDS = 600  # no measure of speed: it only turns a lesson that hangs into one that fails


@pytest.mark.slow
@pytest.mark.parametrize("lesson", lessons(), ids=lambda entry: entry.slug)
def test_every_cell_runs_and_every_claim_holds(lesson, tmp_path):
    (run,) = run_lessons([lesson], tmp_path, cell_timeout=CELL_SECONDS)
    assert run.failure is None, f"cell {run.failure.cell} failed: {run.failure.message}\n{run.failure.traceback}"
    assert run.false == ()
    assert len(run.claims) >= 10
    assert run.predictions, "a lesson opens with a prediction, and settles it"
    katas = json.loads(run.ledger_path.read_text(encoding="utf-8"))["katas"]
    assert katas == {kata.name: "open" for kata in lesson.katas}


@pytest.mark.parametrize("lesson", lessons(), ids=lambda entry: entry.slug)
def test_the_lesson_begins_and_ends_as_every_lesson_does(lesson):
    cells = nbformat.read(lesson.notebook_path, as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert f'begin("{lesson.slug}")' in code[1]
    assert code[-1].strip().splitlines()[-1] == "summary()"
    assert {cell.metadata.blackbelt.get("kata") for cell in cells} >= {kata.name for kata in lesson.katas}
