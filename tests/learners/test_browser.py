"""A learner's first hour in a real browser: start, run the cells, predict, answer a kata wrongly, then rightly."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest

from blackbelt.dojo.catalog import lessons
from blackbelt.dojo.workspace import lesson_path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
)
LESSON = lessons()[0]
KATA = "broadcast_shape"
WRONG = """\
def broadcast_shape(*shapes):
    rank = max((len(shape) for shape in shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    for sizes in zip(*padded):
        if len(set(sizes) - {1}) > 1:
            raise ValueError(sizes)
    return tuple(max(sizes) for sizes in zip(*padded))
"""
RIGHT = WRONG.replace("max(sizes) for", "({*sizes} - {1} or {1}).pop() for")
SENTENCE = "The larger size does not win, the 1 gives way"
ACTIVE = ".jp-Notebook .jp-Cell.jp-mod-active"
PATIENCE = 120_000  # milliseconds; no measure of speed, it only ends a test that would wait forever

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(map(shutil.which, BROWSERS)), reason=f"no browser: none of {', '.join(BROWSERS)} is on the PATH"
    ),
]


def command(*arguments):
    return [sys.executable, "-c", "from blackbelt.cli import main; main()", *arguments]


@pytest.fixture
def address(monkeypatch, tmp_path):
    """The address that `blackbelt start` prints; JupyterLab's own settings are in folders of this test."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    starting = command("start", LESSON.number, "--no-browser")
    with subprocess.Popen(starting, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            yield next(line.strip() for line in process.stdout if "http://" in line)
        finally:
            process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
            process.communicate(timeout=PATIENCE / 1000)


@pytest.fixture
def page(tmp_path):
    from playwright.sync_api import sync_playwright

    found = next(path for path in map(shutil.which, BROWSERS) if path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(PATIENCE)
        yield tab
        browser.close()


class Notebook:
    """The open notebook, worked with the keyboard as a learner would."""

    def __init__(self, page):
        self.page = page
        self.active = page.locator(ACTIVE)
        page.get_by_role("heading", name=LESSON.title).wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()

    def index(self):
        return int(self.active.get_attribute("data-windowed-list-index"))

    def select(self, wanted):
        self.page.keyboard.press("Escape")
        while (here := self.index()) != wanted:
            self.page.keyboard.press("ArrowDown" if here < wanted else "ArrowUp")
            self.page.wait_for_function(
                f"was => document.querySelector('{ACTIVE}')?.dataset.windowedListIndex != was", arg=str(here)
            )

    def run(self, position):
        self.select(position)
        self.page.keyboard.press("Control+Enter")

    def answer(self, position, source):
        self.select(position)
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Control+Enter")


def test_a_learner_predicts_fails_and_passes(address, page):
    from playwright.sync_api import expect

    cells = nbformat.read(lesson_path(LESSON), as_version=4).cells
    code = [number for number, cell in enumerate(cells) if cell.cell_type == "code"]
    asks = next(number for number in code if "predict(" in cells[number].source)
    kata = next(number for number in code if cells[number].metadata.blackbelt.get("kata") == KATA)

    page.goto(address)
    notebook = Notebook(page)
    for number in code[: code.index(asks) + 1]:
        notebook.run(number)
    option = page.get_by_role("button", name=re.compile(r"^B: "))
    option.click()
    expect(page.get_by_text("Your prediction: B.")).to_be_visible()
    for number in code[code.index(asks) + 1 : code.index(kata)]:
        notebook.run(number)

    notebook.answer(kata, f"{WRONG}\ncheck({KATA})")
    expect(notebook.active).to_contain_text(SENTENCE, timeout=PATIENCE)
    assert facts()["solved"] is None

    notebook.answer(kata, f"{RIGHT}\ncheck({KATA})")
    expect(notebook.active).not_to_contain_text(SENTENCE, timeout=PATIENCE)
    expect(notebook.active).to_contain_text(re.compile("✓"), timeout=PATIENCE)
    recorded = facts()
    assert recorded["solved"] is not None and recorded["attempts"] == 2
    assert recorded["predictions"] >= 1

    notebook.run(code[-1])
    expect(notebook.active).to_contain_text(f"{LESSON.slug}: ", timeout=PATIENCE)
    expect(notebook.active).to_contain_text(
        "1 of 1 predictions right" if recorded["right"] else "0 of 1 predictions right"
    )


def facts():
    """What `blackbelt progress --json`, asked in another process, says of the kata and its lesson."""
    said = json.loads(subprocess.run(command("progress", "--json"), check=True, capture_output=True, text=True).stdout)
    of_kata = next(one for one in said["katas"] if one["name"] == KATA)
    of_lesson = next(one for one in said["lessons"] if one["name"] == LESSON.slug)
    return {"solved": of_kata["solved"], "attempts": of_kata["attempts"]} | {
        key: of_lesson[key] for key in ("predictions", "right")
    }
