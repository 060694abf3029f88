"""Every kata keeps the contract: the stub fails, right answers pass, every wrong answer fails with its own sentence."""

from __future__ import annotations

import ast
import importlib.util

import pytest
import torch

from blackbelt.dojo import catalog
from blackbelt.dojo.grader import grade
from blackbelt.dojo.kata import load_kata

BELTS = ("white", "yellow", "orange", "green", "blue", "brown", "black")
HAS_TRITON = importlib.util.find_spec("triton") is not None  # which has no wheels for macOS
ENTRIES = {entry.name: entry for entry in catalog.katas() if HAS_TRITON or "import triton" not in entry.solution}
WRONGS = [(name, wrong) for name in ENTRIES for wrong in load_kata(name).wrongs]
RIGHTS = [(name, right) for name in ENTRIES for right in load_kata(name).rights]


def test_kata_names_are_unique():
    names = [entry.name for entry in catalog.katas()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ENTRIES)
def test_declaration(name):
    entry, kata = ENTRIES[name], load_kata(name)
    assert entry.belt in BELTS
    assert 1 <= entry.minutes <= 90
    assert len(entry.hints) == 3
    assert all(len(hint.split()) <= 90 for hint in entry.hints)
    assert entry.title and entry.statement, "the docstring is a title, an empty line and the statement"
    assert len(kata.wrongs) >= 4
    assert kata.rights, "one other correct solution at least"
    sentences = [wrong.sentence for wrong in kata.wrongs.values()]
    assert len(set(sentences)) == len(sentences)
    assert kata.laws


@pytest.mark.parametrize("name", ENTRIES)
def test_stub_stays_open(name):
    namespace: dict[str, object] = {"torch": torch}
    exec(compile(ast.parse(ENTRIES[name].stub), "<stub>", "exec"), namespace)
    assert grade(load_kata(name), namespace[name]).status == "open"


@pytest.mark.parametrize("name", ENTRIES)
def test_the_reference_passes_as_it_is_shown(name):
    """What `blackbelt solution` prints is the reference's own text: it must run, and pass, with nothing around it."""
    namespace: dict[str, object] = {}
    exec(compile(ENTRIES[name].solution, "<solution>", "exec"), namespace)
    report = grade(load_kata(name), namespace[name])
    assert report.passed, str(report)


@pytest.mark.parametrize(("name", "right"), RIGHTS)
def test_other_right_solutions_pass(name, right):
    kata = load_kata(name)
    report = grade(kata, kata.rights[right])
    assert report.passed, str(report)


@pytest.mark.parametrize(("name", "wrong"), WRONGS)
def test_wrong_solution_hears_its_own_sentence(name, wrong):
    kata = load_kata(name)
    report = grade(kata, kata.wrongs[wrong].function)
    assert report.status == "failed", f"{wrong} passes"
    assert report.mistake == wrong, f"told the sentence of {report.mistake or 'nobody'}:\n{report}"
    assert report.sentence == kata.wrongs[wrong].sentence.rstrip(".")
    assert "NameError" not in str(report), f"a slip of ours, not of a learner's:\n{report}"
