"""home, list, hint, solution, progress and reset, on a tiny course."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blackbelt.dojo.progress import open_progress


def solve(*katas: str) -> None:
    with open_progress() as progress:
        for kata in katas:
            progress.record_attempt(kata, True, "all laws hold")


def test_home_at_the_start(invoke):
    lines = invoke().stdout.splitlines()
    assert lines == [
        "PyTorch Black Belt                                                    white belt",
        "",
        "1  Paper                                                  0/2 katas: yellow belt",
        "   1.1  Sheets",
        "   1.2  Folds of a sheet                                   ░░░░░░░░░░  0/2",
        "",
        "2  Wood                                                   0/2 katas: orange belt",
        "   2.1  Planks                                             ░░░░░░░░░░  0/2",
        "",
        "Next: begin 1.2 Folds of a sheet",
        "   blackbelt start 1.2",
        "   2 open; the next kata: can_fold",
    ]
    assert invoke("home").stdout.splitlines() == lines


@pytest.mark.parametrize(
    ("solved", "belt", "step"),
    [
        (["can_fold"], "white belt", "Next: go on with 1.2 Folds of a sheet"),
        (["can_fold", "unfold"], "yellow belt", "Next: begin 2.1 Planks"),
        (["can_saw", "unsaw"], "white belt", "Next: begin 1.2 Folds of a sheet"),
        (["can_fold", "unfold", "can_saw", "unsaw"], "orange belt", "Every kata is solved."),
    ],
)
def test_home_says_the_belt_and_the_one_next_step(invoke, solved, belt, step):
    solve(*solved)
    output = invoke().stdout
    assert output.splitlines()[0].endswith(belt)
    assert f"\n{step}" in output
    assert max(map(len, output.splitlines())) <= 80


def test_list_names_what_other_commands_take(invoke):
    solve("unfold")
    assert invoke("list").stdout.splitlines() == [
        "1.1  paper/sheets              Sheets",
        "1.2  paper/folds               Folds of a sheet",
        "     can_fold                        white     5 min",
        "     unfold                          yellow   10 min  solved",
        "2.1  wood/planks               Planks",
        "     can_saw                         white     5 min",
        "     unsaw                           yellow   10 min",
    ]


def test_list_as_json(invoke):
    solve("unfold")
    sheets, folds, _ = json.loads(invoke("list", "--json").stdout)
    assert sheets == {"number": "1.1", "name": "paper/sheets", "title": "Sheets", "katas": []}
    assert folds["katas"][1] == {
        "name": "unfold",
        "title": "Unfold it",
        "belt": "yellow",
        "minutes": 10,
        "solved": True,
    }


def test_each_hint_is_the_next_one(invoke):
    for level, words in enumerate(("look at the strides", "multiply them", "the whole idea"), 1):
        assert invoke("hint", "can_fold").stdout == f"can_fold, hint {level} of 3\n  {words}\n"
    assert invoke("hint", "can_fold").stdout.splitlines() == [
        "can_fold, hint 3 of 3",
        "  the whole idea",
        "That was the last one. `blackbelt solution can_fold --give-up` shows our solution.",
    ]
    with open_progress() as progress:
        assert (progress.hints_shown("can_fold"), progress.hints_shown("unfold")) == (3, 0)


def test_all_hints_at_once(invoke):
    assert [line for line in invoke("hint", "unfold", "--all").stdout.splitlines() if line.startswith("  ")] == [
        "  one",
        "  two",
        "  three",
    ]
    with open_progress() as progress:
        assert progress.hints_shown("unfold") == 3


def test_a_hint_for_a_lesson_names_its_katas(invoke):
    done = invoke("hint", "folds")
    assert done.exit_code == 2
    assert done.stderr == "error: 'folds' is a lesson; expected one of its katas: `can_fold`, `unfold`\n"


def test_a_hint_is_shown_even_where_it_cannot_be_recorded(invoke, tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLACKBELT_HOME", str(tmp_path / "file"))
    done = invoke("hint", "can_fold")
    assert done.exit_code == 0
    assert "look at the strides" in done.stdout
    assert done.stderr.startswith("the hint for `can_fold` was not saved: ")


def test_the_solution_is_shown_after_a_pass(invoke):
    done = invoke("solution", "can_fold")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: `can_fold` is not solved yet; our solution is shown after a pass. Try `blackbelt hint can_fold`, or "
        "`blackbelt solution can_fold --give-up`, which is recorded\n"
    )
    solve("can_fold")
    done = invoke("solution", "can_fold")
    assert done.stdout == "def can_fold(size: tuple[int, ...]) -> bool:\n    return len(size) > 1\n"
    with open_progress() as progress:
        assert progress.given_up() == frozenset()


def test_giving_up_is_recorded(invoke):
    assert "return len(size) > 1" in invoke("solution", "can_fold", "--give-up").stdout
    with open_progress() as progress:
        assert progress.given_up() == {"can_fold"}


def test_progress_as_text(invoke):
    solve("can_fold")
    with open_progress() as progress:
        progress.record_attempt("unfold", False, "no")
        progress.record_prediction("paper/folds", "q", "?", "A", right=True)
        progress.record_prediction("paper/folds", "r", "?", "A", right=False)
        progress.record_solution("unfold", gave_up=True)
        path = progress.path
    assert invoke("progress").stdout.splitlines() == [
        "white belt, 1 of 4 katas solved",
        "",
        "lesson        solved  katas  attempts  predictions  right",
        "paper/sheets       0      0         0            0      0",
        "paper/folds        1      2         2            2      1",
        "wood/planks        0      2         0            0      0",
        "",
        "Solution seen before solving: unfold",
        "",
        f"Kept in {path}",
    ]


def test_progress_as_json(invoke):
    solve("can_fold", "unfold")
    facts = json.loads(invoke("progress", "--json").stdout)
    assert facts["belt"] == "yellow"
    first = facts["katas"][0]
    assert first.pop("solved").startswith("20")
    assert first == {"name": "can_fold", "lesson": "paper/folds", "attempts": 1, "hints": 0, "gave_up": False}
    assert facts["katas"][2]["solved"] is None
    assert facts["lessons"][1] == {
        "number": "1.2", "name": "paper/folds", "katas": 2, "solved": 2, "attempts": 2, "predictions": 0, "right": 0
    }  # fmt: skip


def test_progress_of_a_newer_version_is_refused(invoke):
    solve("can_fold")
    with open_progress() as progress:
        progress._connection.execute("PRAGMA user_version=9")
    done = invoke("progress")
    assert done.exit_code == 3
    assert "has version 9" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["can_fold"], {"unfold", "can_saw"}),
        (["folds"], {"can_saw"}),
        (["1.2"], {"can_saw"}),
        (["--all"], set()),
    ],
)
def test_reset_forgets_what_was_named(invoke, arguments, left):
    solve("can_fold", "unfold", "can_saw")
    done = invoke("reset", *arguments, "--yes")
    assert done.exit_code == 0 and "Forgotten: " in done.stdout
    with open_progress() as progress:
        assert set(progress.solved()) == left


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_reset_asks_first(invoke, answer, left):
    solve("can_fold")
    done = invoke("reset", "can_fold", answer=answer)
    assert "Forget the kata can_fold: attempts and hints?" in done.output
    assert done.exit_code == left
    with open_progress() as progress:
        assert len(progress.solved()) == left


@pytest.mark.parametrize("arguments", [[], ["folds", "--all"]])
def test_reset_wants_one_thing(invoke, arguments):
    done = invoke("reset", *arguments)
    assert done.exit_code == 2
    assert "expected a lesson, a kata or --all" in done.stderr
