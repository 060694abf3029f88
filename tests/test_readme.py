"""The README says what is there: its table, its commands, and the output it shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import blackbelt
from blackbelt.cli._application import application
from blackbelt.dojo import catalog

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows():
    found = re.findall(r"^\| ([\dR]\.\d) \| (.+?) \| (.+?) \| (.*?) \| (.*?) ?\|$", README, re.MULTILINE)
    return {number: rest for number, *rest in found}


def test_the_table_has_twenty_four_lessons_in_six_modules_and_two_on_silent_failures():
    numbers = [number for number in rows() if number[0].isdigit()]
    assert len([number for number in numbers if number[0] in "123456"]) == 24
    assert [number for number in numbers if number[0] not in "123456"] == ["7.1", "7.2"]


@pytest.mark.parametrize("entry", catalog.lessons(), ids=lambda entry: entry.slug)
def test_a_lesson_that_exists_has_its_row(entry):
    title, notebook, tools, katas = rows()[entry.number]
    path = entry.notebook_path.relative_to(ROOT).as_posix()
    assert title == f"[{entry.title}]({path})"
    assert path in notebook
    assert "colab.research.google.com" in notebook
    assert int(katas) == len(entry.katas)
    for tool in re.findall(r"`(\w+)`", tools):
        assert callable(getattr(blackbelt, tool))


def test_a_lesson_that_does_not_exist_is_marked_so():
    there = {entry.number for entry in catalog.lessons()}
    for number, (_, notebook, _, katas) in rows().items():
        if number not in there:
            assert notebook == "to come"
            assert not katas


def test_the_example_prints_what_the_readme_shows():
    code = re.search(r"```python\n(.+?)```", README, re.DOTALL)[1]
    shown = re.search(r"```text\n(.+?)\n```", README, re.DOTALL)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().rstrip() == shown


def test_every_command_named_exists():
    commands = {command.name for command in application().registered_commands}
    named = set(re.findall(r"`blackbelt ([a-z]+)", README))
    assert named <= commands
    assert {"start", "check", "watch", "hint", "solution", "run", "explain", "progress"} <= named


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
