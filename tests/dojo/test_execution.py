"""The headless runner: what a lesson showed, what stopped it, and that nothing of it stays behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from blackbelt.dojo.execution import run_lessons

LESSON = """\
# %% [markdown]
# # 1.1 A lesson in three cells

# %%
import json, os
from pathlib import Path
def tell(**what):
    told = {"lesson": "tiny/three", "claims": [], "predictions": [], "torch_version": "0", "device": "none", **what}
    Path(os.environ["BLACKBELT_LEDGER"]).write_text(json.dumps(told))

# %%
def claimed(text, status):
    return {"text": text, "status": status, "figures": {}, "needs": ""}
claims = [claimed("one is one", "shown"), claimed("a GPU is fast", "not shown here"), claimed("one is two", "FALSITY")]
tell(claims=claims, predictions=[{"question": "?"}])

# %%
os.environ["BLACKBELT_HEADLESS"], Path("left.txt").write_text("in a scratch folder")
"""


def test_a_run_tells_what_was_shown_and_keeps_notebook_and_ledger(make_course, tmp_path):
    (lesson,) = make_course(three=LESSON.replace("FALSITY", "shown"))
    (run,) = run_lessons([lesson], tmp_path / "runs")
    assert run.ok and run.failure is None
    assert run.shown == ("one is one", "one is two") and run.not_shown == ("a GPU is fast",) and run.false == ()
    assert len(run.predictions) == 1
    assert run.notebook_path == tmp_path / "runs" / "1.1_three.ipynb"
    executed = nbformat.read(run.notebook_path, as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    assert executed.cells[-1].outputs[0].data["text/plain"] == "('1', 19)"
    assert json.loads(run.ledger_path.read_text())["claims"][0]["text"] == "one is one"
    assert not list(tmp_path.rglob("left.txt"))


def test_a_false_claim_is_named_and_the_run_is_not_ok(make_course, tmp_path):
    (run,) = run_lessons(make_course(three=LESSON.replace("FALSITY", "false")), tmp_path / "runs")
    assert not run.ok and run.failure is None and run.false == ("one is two",)
    assert run.to_dict()["claims"]["false"] == ["one is two"]


def test_a_failing_cell_is_shown_and_does_not_stop_the_other_lesson(make_course, tmp_path):
    lessons = make_course(
        broken=LESSON + "\n# %%\nassert 1 == 2, 'of course'\n", fine=LESSON.replace("FALSITY", "shown")
    )
    broken, fine = run_lessons(lessons, tmp_path / "runs")
    assert fine.ok and (broken.number, fine.number) == ("1.1", "1.2")
    assert broken.failure.message == "AssertionError: of course"
    assert broken.failure.source == "assert 1 == 2, 'of course'"
    assert broken.failure.cell == len(nbformat.read(broken.notebook_path, as_version=4).cells)
    assert "of course" in broken.failure.traceback
    assert broken.shown == ("one is one",)  # what was claimed before the error is not lost


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the kernel died in this cell"),
        ("while True: pass", "the cell did not end within 1 seconds"),
    ],
)
def test_a_cell_that_kills_its_kernel_or_never_ends_is_named(make_course, tmp_path, code, message):
    lessons = make_course(bad=f"# %% [markdown]\n# # Bad\n\n# %%\n{code}\n")
    before = set(psutil.Process().children(recursive=True))  # of tests that keep a process
    (run,) = run_lessons(lessons, tmp_path / "runs", cell_timeout=1)
    assert run.failure.message == message and run.failure.source == code
    assert set(psutil.Process().children(recursive=True)) <= before


def test_two_lessons_run_at_the_same_time_and_no_more(make_course, tmp_path):
    """Each waits for a file of the other: run one after the other they would never end, and a third must wait."""
    both = tmp_path / "both"
    both.mkdir()
    source = f"""\
# %% [markdown]
# # Waits

# %%
import os, time
from pathlib import Path
meeting = Path({str(both)!r})
(meeting / "NAME").touch()
while len(list(meeting.iterdir())) < 2: time.sleep(0.01)
"""
    third = f"# %% [markdown]\n# # Last\n\n# %%\nlen(list(__import__('pathlib').Path({str(both)!r}).iterdir()))\n"
    lessons = make_course(a=source.replace("NAME", "a"), b=source.replace("NAME", "b"), c=third)
    *_, last = run_lessons(lessons, tmp_path / "runs", jobs=2, cell_timeout=60)
    assert nbformat.read(last.notebook_path, as_version=4).cells[-1].outputs[0].data["text/plain"] == "2"


def test_the_listener_hears_of_every_cell(make_course, tmp_path):
    heard = []

    class Listener:
        def on_start(self, lesson, num_cells):
            heard.append(("start", lesson.name, num_cells))

        def on_cell(self, lesson, cell):
            heard.append(("cell", lesson.name, cell))

        def on_end(self, run):
            heard.append(("end", run.lesson, run.ok))

    run_lessons(make_course(three=LESSON.replace("FALSITY", "shown")), tmp_path / "runs", listener=Listener())
    cells = [("cell", "three", number) for number in (1, 2, 3, 4)]
    assert heard == [("start", "three", 4), *cells, ("end", "tiny/three", True)]


def test_the_kernel_is_the_running_interpreter_whatever_the_user_installed(make_course, tmp_path, monkeypatch):
    elsewhere = tmp_path / "jupyter" / "kernels" / "python3"
    elsewhere.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "Another", "language": "python"}
    (elsewhere / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    (run,) = run_lessons(make_course(who="# %% [markdown]\n# # Who\n\n# %%\n__import__('sys').executable\n"), tmp_path)
    shown = nbformat.read(run.notebook_path, as_version=4).cells[-1].outputs[0].data["text/plain"]
    assert Path(shown.strip("'")).samefile(sys.executable)


RUN_FOREVER = """\
import sys
from pathlib import Path
from blackbelt.dojo.catalog import lessons
from blackbelt.dojo.execution import run_lessons
try:
    run_lessons(lessons(Path(sys.argv[1])), Path(sys.argv[2]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process on Windows")
@pytest.mark.parametrize("moment", ["while the kernels start", "in a busy cell"])
def test_ctrl_c_ends_it_and_leaves_no_process(make_course, tmp_path, moment):
    busy = """\
# %% [markdown]
# # Busy

# %%
import signal, subprocess, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path("TOUCH").touch()
while True: pass
"""
    sources = {name: busy.replace("TOUCH", str(tmp_path / name)) for name in ("a", "b")}
    make_course(**sources)
    command = [sys.executable, "-c", RUN_FOREVER, str(tmp_path / "course"), str(tmp_path / "runs")]
    with subprocess.Popen(command, start_new_session=True) as process:
        parent = psutil.Process(process.pid)
        if moment == "in a busy cell":
            _wait_for(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
        else:
            _wait_for(lambda: parent.children(recursive=True))
        started = parent.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    _gone, alive = psutil.wait_procs(started, timeout=10)
    assert started and not alive


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the lessons never began"
        time.sleep(0.02)
