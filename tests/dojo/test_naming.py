"""Lessons and katas are found by number and by name, and a miss says what to try next."""

from __future__ import annotations

import subprocess
import sys

import pytest

from blackbelt.dojo.naming import UnknownNameError, find, find_kata, find_lesson

pytestmark = pytest.mark.usefixtures("tiny_course")


@pytest.mark.parametrize(
    "name", ["1.2", "folds", "paper/folds", "2_folds", "1_paper/2_folds", "notebooks/1_paper/2_folds.ipynb", " Folds "]
)
def test_a_lesson_is_found(name):
    assert find_lesson(name).slug == "paper/folds"
    assert find(name) is find_lesson(name)


@pytest.mark.parametrize("name", ["can_fold", "can-fold", "Can_Fold", "paper/folds/can_fold"])
def test_a_kata_is_found(name):
    assert find_kata(name).name == "can_fold"
    assert find(name) is find_kata(name)


def test_the_name_of_a_kata_finds_its_lesson():
    assert find_lesson("can_fold").number == "1.2"


LIST = "`blackbelt list` shows all"
LESSON = "expected a number like 1.2 or a name"


@pytest.mark.parametrize(
    ("finder", "name", "message"),
    [
        (find_lesson, "fold", f"no lesson is called 'fold'; {LESSON}; did you mean `folds` or `unfold`? {LIST}"),
        (find, "1.7", f"no lesson or kata is called '1.7'; {LESSON}; did you mean `1.2` or `1.1`? {LIST}"),
        (
            find_kata,
            "canfold",
            f"no kata is called 'canfold'; expected a name; did you mean `can_fold` or `unfold`? {LIST}",
        ),
        (find_kata, "qqq", f"no kata is called 'qqq'; expected a name; {LIST}"),
        (find_kata, "folds", "'folds' is a lesson; expected one of its katas: `can_fold`, `unfold`"),
        (find_kata, "1.1", "'1.1' is a lesson; expected one of its katas: it has none yet"),
    ],
)
def test_a_miss_says_what_to_try_next(finder, name, message):
    with pytest.raises(UnknownNameError) as caught:
        finder(name)
    assert str(caught.value) == message


def test_an_empty_name_is_a_miss():
    with pytest.raises(UnknownNameError, match="no lesson or kata is called ''"):
        find("")


def test_finding_imports_no_torch():
    program = "import sys\nfrom blackbelt.dojo.catalog import lessons, katas\nimport blackbelt.dojo.naming\n"
    program += "lessons(), katas()\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
