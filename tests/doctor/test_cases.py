"""Every rule finds its defect, on its line, and nothing else; the twin without the defect is clean; nothing is changed.

``cases/BB301/function_bug.py`` is a training with one defect, whose line says ``# cause: BB301``; ``function_clean.py``
is its twin. ``corpus/`` holds unusual trainings that are right.
"""

from pathlib import Path

import pytest

from blackbelt.doctor import all_rules
from tests.doctor.trainings import causes, found, train

FOLDER = Path(__file__).parent
BUGS = sorted(FOLDER.glob("cases/*/*_bug.py"))
CLEAN = sorted([*FOLDER.glob("cases/*/*_clean.py"), *FOLDER.glob("corpus/*.py")])


def name(path):
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", BUGS, ids=name)
def test_the_defect_is_found_on_its_line_and_nothing_else(path):
    expected = causes(path)
    assert len(expected) == 1 and expected[0][0] == path.parent.name
    training = train(path, doctor=True)
    assert training.report.failures == ()
    assert found(training.report) == expected


@pytest.mark.parametrize("path", CLEAN, ids=name)
def test_a_right_training_is_clean(path):
    training = train(path, doctor=True)
    assert training.report.failures == ()
    assert not causes(path)
    assert found(training.report) == []


@pytest.mark.parametrize("path", [*BUGS, *CLEAN], ids=name)
def test_the_training_is_what_it_would_be_without(path):
    alone, observed = train(path, doctor=False), train(path, doctor=True)
    assert observed.printed == alone.printed
    assert observed.left_behind == alone.left_behind


@pytest.mark.parametrize("code", all_rules())
def test_every_rule_has_three_cases_with_twins(code):
    bugs = sorted(FOLDER.glob(f"cases/{code}/*_bug.py"))
    assert len(bugs) >= 3
    for path in bugs:
        twin = path.with_name(path.name.replace("_bug", "_clean"))
        assert twin.read_text(encoding="utf-8") != path.read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", all_rules().values(), ids=lambda rule: rule.code)
def test_every_rule_explains_itself(rule):
    assert rule.__doc__ and len(rule.__doc__) > 300
    assert rule.title and not rule.title.endswith(".")
    module, _, lesson = rule.lesson.partition("/")
    assert not rule.lesson or list(FOLDER.parents[1].glob(f"lessons/?_{module}/?_{lesson}.py")), "no such lesson"


def test_the_page_lists_every_rule():
    page = (FOLDER.parents[1] / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| BB")]
    assert rows == [f"| {code} | {rule.severity} | {rule.title} |" for code, rule in all_rules().items()]
