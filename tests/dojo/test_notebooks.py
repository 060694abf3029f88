"""From lesson to notebook: what is composed, what a build keeps, and what the check refuses."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output

from blackbelt.dojo.catalog import PACKAGE, KataEntry
from blackbelt.dojo.notebook_check import check_notebook, check_notebooks
from blackbelt.dojo.notebooks import REPOSITORY, BuildError, build, compose, source_hash, write_notebook
from blackbelt.dojo.outputs import clean_outputs, local_paths, shorten_paths

LESSON = """\
# %% [markdown]
# # 1.1 Folding
#
# Text.

# %%
from blackbelt import begin, check, claim

begin("tiny/folding")

# %% kata="can_fold"

# %%
claim("one is one", 1 == 1)

# %% [markdown]
# The end.
"""

CAN_FOLD = KataEntry(
    name="can_fold",
    lesson="tiny/folding",
    title="Decide whether it folds",
    statement="Return True where it folds.",
    minutes=5,
    belt="white",
    hints=("a", "b", "c"),
    stub='def can_fold(size: int) -> bool:\n    """Folds?"""\n    raise NotImplementedError("your turn")',
    solution="",
    num_wrong=4,
)


@pytest.fixture
def lesson(make_course):
    return make_course(folding=LESSON)[0]


@pytest.fixture
def built(lesson):
    """The lesson with a notebook that has nothing wrong with it, made without executing anything."""
    save(lesson, executed(lesson))
    return lesson


def executed(lesson):
    notebook = compose(lesson, [CAN_FOLD])
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    notebook.metadata["blackbelt"]["claims"] = {"shown": 1, "not_shown": 0, "false": []}
    return notebook


def save(lesson, notebook):
    write_notebook(notebook, lesson.notebook_path)


def problems_of(lesson):
    return [str(problem) for problem in check_notebook(lesson, [CAN_FOLD])]


# --- composing --------------------------------------------------------------------------------------------------------


def test_badge_and_colab_cell_come_first_then_the_lesson(lesson):
    badge, install, *own = compose(lesson, [CAN_FOLD]).cells
    assert badge.source.count("http") == 2
    assert (
        f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/1_tiny/1_folding.ipynb"
        in badge.source
    )
    assert install.cell_type == "code" and "google.colab" in install.source
    assert [cell.cell_type for cell in own] == ["markdown", "code", "markdown", "code", "code", "markdown"]
    assert own[0].source == "# 1.1 Folding\n\nText."


def test_a_kata_cell_becomes_its_statement_and_its_stub(lesson):
    statement, kata = compose(lesson, [CAN_FOLD]).cells[4:6]
    assert kata.source == f"{CAN_FOLD.stub}\n\n\ncheck(can_fold)"
    assert kata.metadata.blackbelt.kata == "can_fold"
    for part in (
        "Decide whether it folds",
        "white",
        "5 minutes",
        "Return True where it folds.",
        "blackbelt hint can_fold",
    ):
        assert part in statement.source


def test_ids_and_hashes_follow_from_the_content(make_course):
    twice = "\n# %%\n1 + 1\n\n# %%\n1 + 1\n"
    (lesson,) = make_course(folding=LESSON + twice)
    first, again = compose(lesson, [CAN_FOLD]), compose(lesson, [CAN_FOLD])
    assert nbformat.writes(first) == nbformat.writes(again)
    assert len({cell.id for cell in first.cells}) == len(first.cells)
    assert all(cell.metadata.blackbelt.hash == source_hash(cell.source) for cell in first.cells)
    (lesson,) = make_course(folding=LESSON.replace("# Text.", "# Text.\n\n# %% [markdown]\n# New.") + twice)
    after = compose(lesson, [CAN_FOLD])
    assert [cell.id for cell in after.cells if cell.source != "New."] == [cell.id for cell in first.cells]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ('# # T\n\n# %% kata="can_fly"\n', "no kata has that name; those of this lesson are: can_fold"),
        ('# %% [markdown]\n# # T\n\n# %% kata="can_fold"\n1\n', 'the cell kata="can_fold" must be empty'),
        (LESSON + '\n# %% kata="can_fold"\n', "two cells share an id (kata-can_fold, kata-can_fold-statement)"),
        ("# # T\nx = 1\n", "a lesson is a percent-format file whose cells begin with `# %%`"),
        ("# %% [raw]\n# # T\n", "a raw cell was found"),
    ],
)
def test_a_lesson_that_cannot_be_composed_says_why(make_course, source, sentence):
    (lesson,) = make_course(folding=source)
    with pytest.raises(BuildError, match=re.escape(sentence)):
        compose(lesson, [CAN_FOLD])


def test_composing_imports_no_torch(make_course, tmp_path):
    make_course(plain="# %% [markdown]\n# # T\n\n# %%\n1\n")
    code = (
        "import sys; from pathlib import Path; from blackbelt.dojo.catalog import lessons\n"
        "from blackbelt.dojo.notebook_check import check_notebooks\n"
        f"print(check_notebooks(lessons(Path({str(tmp_path / 'course')!r}))), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "it has no notebook" in said and said.strip().endswith("False")


def test_the_published_address_is_the_projects(tmp_path):
    text = (PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'Repository = "https://github.com/{REPOSITORY}"' in text


# --- building ---------------------------------------------------------------------------------------------------------


def test_a_build_executes_cleans_and_passes_its_own_check(make_course, tmp_path):
    source = LESSON.replace('# %% kata="can_fold"\n\n', "") + (
        "\n# %%\nimport nbformat, ipywidgets, tempfile, pathlib\nfrom IPython.display import display\n"
        "display(ipywidgets.HTML('x'))\n"
        "def here(): return here.__code__.co_filename\n"
        "print(nbformat.__file__, here(), pathlib.Path.home() / 'x', tempfile.gettempdir())\n"
    )
    (lesson,) = make_course(folding=source)
    run = build(lesson, tmp_path / "work")
    assert run.ok and run.shown == ("one is one",)
    notebook = nbformat.read(lesson.notebook_path, as_version=4)
    (output,) = notebook.cells[-1].outputs
    assert output.text.split() == ["nbformat/__init__.py", "<cell>", "~/x", "<temporary>"]
    assert notebook.metadata.blackbelt.claims == {"shown": 1, "not_shown": 0, "false": []}
    assert [str(problem) for problem in check_notebooks([lesson], course_katas=())] == []


def test_a_build_with_a_false_claim_is_written_and_refused(make_course, tmp_path):
    source = LESSON.replace('# %% kata="can_fold"\n\n', "").replace("1 == 1", "1 == 2")
    (lesson,) = make_course(folding=source)
    assert not build(lesson, tmp_path / "work").ok
    (problem,) = check_notebook(lesson, ())
    assert problem.what == "a claim is false: one is one"


# --- checking ---------------------------------------------------------------------------------------------------------


def test_a_notebook_as_its_source_says_has_no_problem(built):
    assert problems_of(built) == []


def edit_source(lesson, notebook):
    path = lesson.source_path
    path.write_text(path.read_text(encoding="utf-8").replace("The end.", "The very end."), encoding="utf-8")


def edit_cell(lesson, notebook):
    notebook.cells[-2].source = 'claim("one is two", 1 == 2)'


def drop_cell(lesson, notebook):
    del notebook.cells[2]


def add_cell(lesson, notebook):
    notebook.cells.append(nbformat.v4.new_markdown_cell("By hand."))


def never_run(lesson, notebook):
    notebook.cells[3].execution_count = None


def error_output(lesson, notebook):
    notebook.cells[3].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]


def noise(lesson, notebook):
    notebook.cells[3].outputs = [new_output("stream", name="stderr", text="UserWarning: hush\n  twice")]


def local_path(lesson, notebook):
    notebook.cells[3].outputs = [new_output("display_data", data={"text/html": "<b>/home/me/model.pt</b>"})]


def false_claim(lesson, notebook):
    notebook.metadata["blackbelt"]["claims"]["false"] = ["two is one"]


def no_claims(lesson, notebook):
    del notebook.metadata["blackbelt"]["claims"]


def too_large(lesson, notebook):
    picture = base64.b64encode(b"x" * 800_000).decode()
    notebook.cells[3].outputs = [new_output("display_data", data={"image/png": picture})]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (edit_source, "tiny/folding, cell 8 (The end.): it is not the cell that lessons/1_tiny/1_folding.py has there"),
        (edit_cell, 'tiny/folding, cell 7 (claim("one is two", 1 == 2)): it is not the cell that lessons/'),
        (drop_cell, "tiny/folding, cell 3 (# 1.1 Folding): the notebook does not have this cell of lessons/1_tiny"),
        (add_cell, "tiny/folding, cell 9 (By hand.): it is not the cell that"),
        (never_run, "tiny/folding, cell 4 (from blackbelt import begin, check, claim): it never ran"),
        (error_output, "cell 4 (from blackbelt import begin, check, claim): it ended with ValueError: no"),
        (noise, "it wrote to stderr: UserWarning: hush. Remove the cause, or tag the cell"),
        (local_path, "its output names a local path, /home/me/model.pt"),
        (false_claim, "tiny/folding: a claim is false: two is one"),
        (no_claims, "tiny/folding: its notebook does not say which claims were shown. Run `blackbelt build folding`"),
        (too_large, "bytes, more than 1,000,000. Show less, or draw it as SVG"),
    ],
)
def test_the_check_names_lesson_cell_and_remedy(built, change, sentence):
    notebook = executed(built)
    change(built, notebook)
    save(built, notebook)
    (problem,) = problems_of(built)
    assert sentence in problem


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nbformat": 4}', json.dumps({"cells": [], "nbformat": 9})])
def test_a_notebook_that_cannot_be_read_is_one_problem(built, content):
    built.notebook_path.write_text(content, encoding="utf-8")
    problem = problems_of(built)[0]
    assert "Run `blackbelt build folding`" in problem


def test_cells_may_be_tagged_to_raise_and_to_warn(make_course):
    (lesson,) = make_course(folding=LESSON + '\n# %% tags=["raises-exception", "warns"]\n1 / 0\n')
    notebook = executed(lesson)
    notebook.cells[-1].outputs = [
        new_output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=[]),
        new_output("stream", name="stderr", text="so be it"),
    ]
    save(lesson, notebook)
    assert problems_of(lesson) == []


def test_a_kata_in_no_cell_and_a_notebook_without_source_are_found(built, tmp_path):
    other = CAN_FOLD.__class__(**{**vars(CAN_FOLD), "name": "unfold"})
    (problem,) = check_notebook(built, [CAN_FOLD, other])
    assert str(problem) == 'tiny/folding: its kata unfold is in no cell. Add `# %% kata="unfold"` to 1_folding.py'
    stray = built.notebook_path.with_name("9_stray.ipynb")
    shutil.copy(built.notebook_path, stray)
    (problem,) = check_notebooks([built], tmp_path / "course", [CAN_FOLD])
    assert problem.where == str(Path("notebooks", "1_tiny", "9_stray.ipynb")) and "no source" in problem.what


# --- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("saved to /tmp/run/model.pt.", ["/tmp/run/model.pt."]),
        ("\x1b[32m/Users/me/x.py\x1b[0m:3", ["/Users/me/x.py"]),
        (r"C:\Users\me\x.py", [r"C:\Users\me\x.py"]),
        ("see https://example.org/home/page and torch/usr/x and 3/4", []),
        ("<img src='data:image/png;base64,AAAA/home/AAAA=='>", []),
        ("a / b, N/A, and/or, ratio 1:2, T: int", []),
    ],
)
def test_local_paths_are_found_and_nothing_else(text, found):
    assert local_paths(new_output("stream", name="stdout", text=text)) == found
    assert local_paths(new_output("display_data", data={"text/plain": text, "image/png": "/home/x"})) == found


def test_this_machines_folders_are_shortened(tmp_path):
    module = PACKAGE / "dojo" / "catalog.py"
    assert shorten_paths(f'File "{module}", line 3') == 'File "blackbelt/dojo/catalog.py", line 3'
    assert shorten_paths(f"{Path.home()}/models, {Path.home()}s") == f"~/models, {Path.home()}s"
    assert shorten_paths(f"see https://example.org{Path.home()}") == f"see https://example.org{Path.home()}"


def test_cleaning_reaches_every_text_and_drops_what_needs_a_kernel(built):
    notebook = executed(built)
    home = str(Path.home())
    notebook.cells[3].metadata["execution"] = {"iopub.execute_input": "2026"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    notebook.cells[3].outputs = [
        new_output("error", ename="E", evalue=f"{home}/a", traceback=[f"\x1b[32m{home}/b\x1b[0m"]),
        new_output("display_data", data=widget),
        new_output("execute_result", data={"application/json": {"path": [f"{home}/c"]}, "image/png": f"{home}/d"}),
    ]
    clean_outputs(notebook)
    error, result = notebook.cells[3].outputs
    assert error.evalue == "~/a" and error.traceback == ["\x1b[32m~/b\x1b[0m"]
    assert result.data == {"application/json": {"path": ["~/c"]}, "image/png": f"{home}/d"}
    assert "execution" not in notebook.cells[3].metadata
