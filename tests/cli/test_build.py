"""`blackbelt build`: for authors. Composing and checking themselves are tested in tests/dojo/test_notebooks.py."""

from __future__ import annotations

from blackbelt.dojo import catalog
from blackbelt.dojo.catalog import lessons


def test_a_notebook_that_was_never_executed_is_refused_and_building_it_helps(invoke):
    done = invoke("build", "--check", "sheets")
    assert done.exit_code == 1
    assert "✗ paper/sheets, cell 4 (1 + 1): it never ran. Run `blackbelt build sheets`\n" in done.stdout
    assert done.stderr.endswith("problems\n")

    done = invoke("build", "sheets")
    assert done.exit_code == 0, done.stdout
    assert f"written to {lessons()[0].notebook_path}\n" in done.stdout
    assert invoke("build", "--check", "sheets").stdout == "✓ 1 notebook is as the sources say\n"


def test_a_build_whose_cell_fails_ends_with_1_and_keeps_what_there_is(invoke, tiny_course):
    lesson = lessons()[0]
    lesson.source_path.write_text("# %% [markdown]\n# # Sheets\n\n# %%\n1 / 0\n", encoding="utf-8")
    done = invoke("build", "sheets")
    assert done.exit_code == 1
    assert "cell 4 (1 / 0): it ended with ZeroDivisionError: division by zero" in done.stdout
    assert "ZeroDivisionError" in lesson.notebook_path.read_text(encoding="utf-8")


def test_without_a_lesson_all_are_checked_and_strays_are_found(invoke, tiny_course):
    stray = tiny_course / "notebooks" / "1_paper" / "7_stray.ipynb"
    stray.write_text("{}", encoding="utf-8")
    said = invoke("build", "--check").stdout
    for entry in lessons():
        assert f"✗ {entry.slug}" in said
    assert "7_stray.ipynb: it has no source in lessons/" in said


def test_an_installed_course_is_not_built(invoke, tiny_course, monkeypatch):
    (tiny_course / "lessons").rename(catalog.PACKAGE / "lessons")
    (catalog.PACKAGE / "course").mkdir()
    (catalog.PACKAGE / "lessons").rename(catalog.PACKAGE / "course" / "lessons")
    lessons.cache_clear()
    done = invoke("build", "sheets")
    assert done.exit_code == 2
    assert "build runs in a clone of the repository" in " ".join(done.stderr.split())
