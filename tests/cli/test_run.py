"""`blackbelt run`: what it prints, keeps and returns. The runner itself is tested in tests/dojo/test_execution.py."""

from __future__ import annotations

import json

import nbformat
import pytest

from blackbelt.dojo.catalog import lessons
from blackbelt.dojo.workspace import workspace_folder

TELL = """\
# %% [markdown]
# # Sheets

# %%
import json, os
from pathlib import Path
claims = [{"text": text, "status": status, "figures": {}, "needs": ""} for text, status in CLAIMS]
ledger = {"claims": claims, "predictions": [{}, {}], "torch_version": "2", "device": "CPU"}
Path(os.environ["BLACKBELT_LEDGER"]).write_text(json.dumps(ledger))
"""


def rewrite(root, source):
    (root / "lessons" / "1_paper" / "1_sheets.py").write_text(source, encoding="utf-8")
    lessons.cache_clear()


def test_two_lessons_are_reported_and_kept(invoke):
    done = invoke("run", "1.1", "folds")
    assert done.exit_code == 0
    for number, name in (("1.1", "sheets"), ("1.2", "folds")):
        kept = workspace_folder() / "runs" / f"{number}_{name}.ipynb"
        assert f"✓ {number} {name}: " in done.stdout
        assert f"notebook: {kept}\n" in done.stdout
        assert nbformat.read(kept, as_version=4).cells[-1].outputs[0].data["text/plain"] == "4"


def test_claims_are_counted_and_a_false_one_is_named(invoke, tiny_course):
    rewrite(
        tiny_course, TELL.replace("CLAIMS", '[("a", "shown"), ("b", "shown"), ("c", "not shown here"), ("d", "false")]')
    )
    done = invoke("run", "sheets")
    assert done.exit_code == 1
    assert "✗ 1.1 sheets: " in done.stdout
    assert "claims: 2 shown, 1 not shown here, 1 false; predictions: 2\n" in done.stdout
    assert "  not shown here: c\n" in done.stdout and "  FALSE: d\n" in done.stdout
    assert f"ledger:   {workspace_folder() / 'runs' / '1.1_sheets.ledger.json'}\n" in done.stdout
    assert "1 false claim, 0 of 1 lessons stopped by an error" in done.stderr


def test_the_failing_cell_and_its_error_are_shown(invoke, tiny_course):
    rewrite(tiny_course, "# %% [markdown]\n# # Sheets\n\n# %%\nwidth = 3\nwidth.fold()\n")
    done = invoke("run", "sheets")
    assert done.exit_code == 1
    assert "  cell 4 failed: AttributeError: 'int' object has no attribute 'fold'\n" in done.stdout
    assert "      | width = 3\n      | width.fold()\n" in done.stdout


def test_json_is_all_that_is_printed(invoke, tiny_course):
    rewrite(tiny_course, TELL.replace("CLAIMS", '[("d", "false")]'))
    done = invoke("run", "sheets", "--json")
    assert done.exit_code == 1
    (run,) = json.loads(done.stdout)
    assert run["lesson"] == "paper/sheets" and run["ok"] is False and run["failure"] is None
    assert run["claims"] == {"shown": [], "not_shown": [], "false": ["d"]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name the lessons to run, or pass --all"),
        (("sheets", "--all"), "name the lessons to run, or pass --all"),
        (("sheet",), "no lesson is called 'sheet'"),
        (("sheets", "--jobs", "0"), "Invalid value for '--jobs'"),
    ],
)
def test_what_is_not_understood_is_said_and_runs_nothing(invoke, arguments, sentence):
    done = invoke("run", *arguments)
    assert done.exit_code == 2
    assert sentence in " ".join(done.stderr.split())
    assert not (workspace_folder() / "runs").exists()
