"""A belt for each numbered module, in order; a module with a letter has lessons and katas, and no belt."""

from __future__ import annotations

import pytest

from blackbelt.dojo.belts import belt, modules, next_step
from blackbelt.dojo.catalog import katas, lessons
from blackbelt.dojo.naming import find_lesson


@pytest.fixture
def with_a_letter(tiny_course):
    lesson = tiny_course / "lessons" / "R_tools" / "3_saws.py"
    lesson.parent.mkdir()
    lesson.write_text('# %% [markdown]\n# # R.3 `Saws`\n\n# %% kata="sharpen"\n', encoding="utf-8")
    source = (tiny_course / "src/blackbelt/katas/paper/folds/unfold.py").read_text(encoding="utf-8")
    file = tiny_course / "src/blackbelt/katas/tools/saws/sharpen.py"
    file.parent.mkdir(parents=True)
    file.write_text(source.replace("unfold", "sharpen"), encoding="utf-8")
    for read in (lessons, katas):
        read.cache_clear()


@pytest.mark.usefixtures("with_a_letter")
def test_a_module_with_a_letter_comes_last_and_earns_no_belt():
    assert [(module.number, module.name, module.belt) for module in modules()] == [
        ("1", "paper", "yellow"),
        ("2", "wood", "orange"),
        ("R", "tools", ""),
    ]
    numbered = {kata.name for kata in katas()} - {"sharpen"}
    assert belt(()) == "white"
    assert belt(numbered) == "orange"
    assert belt({"sharpen"}) == "white"
    step = next_step(numbered)
    assert step is not None
    assert (step.lesson.number, step.kata and step.kata.name) == ("R.3", "sharpen")


@pytest.mark.usefixtures("with_a_letter")
@pytest.mark.parametrize("name", ["R.3", "r.3", "saws", "tools/saws", "R_tools/3_saws"])
def test_its_lesson_is_found(name):
    assert find_lesson(name).plain_title == "Saws"
