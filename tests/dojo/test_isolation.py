"""Hostile and unlucky code, one snippet per case: each gets its sentence, none a pass, and nothing stays behind."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from blackbelt.dojo.isolation import CAN_FORK, Worker, WorkerError, Workers
from blackbelt.dojo.slicing import Slice, cut_out
from blackbelt.dojo.verdict import KataReport

KATA = '''
import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.value import Value


@kata(
    minutes=1,
    belt="white",
    hints=("a", "b", "c"),
    cases=st.tuples(st.integers(0, 5).map(lambda n: torch.arange(float(n)))),
    edge_cases=lambda: {"three": (torch.arange(3.0),)},
    laws=[Value()],
)
def double(x):
    """Double it."""
    return 2 * x


@double.wrong("Adding two is not doubling.")
def adds(x):
    return x + 2
'''

# What each snippet does before it returns the right answer; how grading ends; what the learner is told.
HOSTILE = {
    "endless loop": ("while True: pass", "time", "ran longer than 1 s and was ended.*loop whose condition"),
    "endless loop in compiled code": ("import time; time.sleep(10**6)", "time", "ran longer than 1 s"),
    "endless recursion": ("double(x)", "graded", "raised RecursionError.*line 3: double"),
    "deep C recursion": (
        "import sys; sys.setrecursionlimit(10**8)\nf = lambda n: [*map(f, [n])]\nf(0)",
        "crash|graded|memory|time",
        "crashed Python|RecursionError|memory|ran longer",
    ),
    "segfault": ("import ctypes; ctypes.string_at(0)", "crash", "crashed Python .SIGSEGV.*line 3: `import ctypes"),
    "abort": ("import os; os.abort()", "crash", "SIGABRT.*line 3: `import os; os.abort"),
    "os._exit": ("import os; os._exit(0)", "exit", "ended the process .exit status 0. before.*Return a value instead"),
    "sys.exit": ("import sys; sys.exit(0)", "graded", "raised SystemExit.*line 3: import sys; sys.exit"),
    "KeyboardInterrupt": (
        "raise KeyboardInterrupt",
        "raised",
        "KeyboardInterrupt was raised while it was graded.*line 3",
    ),
    "forged verdict printed": (
        'print(\'secret {"event": "verdict", "number": 1, "report": {"status": "passed"}}\')\nreturn None',
        "graded",
        "double failed",
    ),
    "forged verdict on every descriptor": (
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'0 {}\\n')\n    except OSError: continue",
        "forged",
        "wrote to a file descriptor that it did not open.*Print with",
    ),
    "closes every descriptor": ("import os; os.closerange(3, 64)", "closed", "closed file descriptors that it did not"),
    "kills its parent": ("import os; os.kill(os.getppid(), 9)", "crash|exit", "crashed Python|ended the process"),
    "outliving process": (
        "import subprocess; subprocess.Popen(['sleep', '987'])",
        "leftovers",
        "left a process running",
    ),
    "outliving daemon": (
        "import subprocess\nsubprocess.Popen(['setsid', '-f', 'env', '-i', 'sleep', '987'])",
        "leftovers",
        "left a process running.*it has been ended",
    ),
    "fork bomb": ("import os\nwhile True: os.fork()", "graded|time", "more than 16 processes|ran longer"),
    "bomb of programs": (
        "import subprocess, sys\nwhile True: subprocess.Popen(['sleep', '987'])",
        "graded",
        "PermissionError: your code tried to start more than 16 processes",
    ),
    "bomb out of our sight": (
        "import os\nos.system('for i in $(seq 90); do sleep 987 & done; wait')",
        "processes",
        "started more than 64 processes and was ended",
    ),
    "100 GB tensor": (
        "torch.empty(100 << 30, dtype=torch.uint8)",
        "memory",
        "more memory than the limit.*100 GiB at once",
    ),
    "100 GB bytearray": ("bytearray(100 << 30)", "memory", "memory"),
    "memory in small steps": ("kept = []\nwhile True: kept.append(torch.zeros(1 << 22))", "memory", "more memory"),
    "closes stdout": ("import sys; sys.stdout.close()", "stdout", "closed standard output"),
    "closes descriptor 1": ("import os; os.close(1)", "stdout|graded", "closed standard output|Bad file descriptor"),
    "endless thread": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(987,)).start()",
        "threads",
        "left a thread",
    ),
    "deletes its folder": (
        "import os, shutil; shutil.rmtree(os.getcwd())",
        "folder|graded",
        "deleted its working folder|FileNotFound",
    ),
    "patches torch.allclose": ("torch.allclose = lambda *a, **k: True", "graded", "replaced `torch.allclose`.*Remove"),
    "patches torch.equal": ("torch.equal = lambda *a: True\nreturn x", "graded", "replaced `torch.equal`"),
    "patches a clock": ("import time; time.perf_counter = lambda: 0.0", "graded", "replaced `time.perf_counter`"),
    "patches the built-ins": (
        "import builtins; builtins.isinstance = lambda *a: True",
        "graded|integrity",
        "replaced `builtins.isinstance`",
    ),
    "breaks the built-ins": ("import builtins; builtins.len = None", "graded|integrity", "replaced `builtins.len`"),
    "patches the grader": (
        "import blackbelt.dojo.grader as g; g._first_failure = lambda *a: (None, 9)",
        "graded",
        "replaced `blackbelt.dojo.grader._first_failure`",
    ),
    "patches a law": (
        "from blackbelt.dojo.laws.value import Value; Value.check = lambda *a: None\nreturn x",
        "graded",
        "replaced `blackbelt.dojo.laws.value.Value.check`",
    ),
    "patches the kata": (
        "import sys; sys.modules['blackbelt.katas.of_a_file'].double.reference = lambda x: x\nreturn x",
        "graded",
        "replaced `blackbelt.katas.of_a_file.double.reference`",
    ),
    "changes the default dtype": ("torch.set_default_dtype(torch.float64)", "graded", "default dtype"),
    "changes the default device": ("torch.set_default_device('meta')", "graded", "default device"),
    "uses up random numbers": ("torch.rand(1)", "graded", "random"),
    "returns an array": ("return (2 * x).numpy()", "graded", "double failed"),
    "returns a subclass": (
        "class Mine(torch.Tensor): pass\nreturn (2 * x).as_subclass(Mine)",
        "graded",
        "double failed",
    ),
    "returns its input": ("return x[:]", "graded", "double failed"),
    "returns None": ("return None", "graded", "double failed"),
    "returns NaN": ("return x * float('nan')", "graded", "double failed"),
}

# What stands in the file beside the function; how grading ends; what the learner is told.
LOADED = {
    "unknown name": (
        "y = undefined + 1",
        "raised",
        "NameError was raised while your file was run.*line 2: `y = undefined",
    ),
    "unknown package": ("import no_such_package as y", "raised", "ModuleNotFoundError.*Only installed packages"),
    "exits": ("y = exit(3)", "raised", "SystemExit was raised while your file was run"),
    "loops": ("while True: y = 1", "time", "ran longer than 1 s"),
    "patches": ("torch.allclose = y = lambda *a, **k: True", "integrity", "replaced `torch.allclose`"),
    "default dtype": ("y = torch.set_default_dtype(torch.float64)", "state", "your file changed the default dtype"),
    "crashes": ("import ctypes\ny = ctypes.string_at(0)", "crash", "SIGSEGV.*line 3: `y = ctypes"),
    "outside a function": ("if True:\n    y = 1\n    return", "raised", "SyntaxError.*line 4: `return`"),
}


@pytest.fixture(scope="module")
def kata_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("katas") / "doubling.py"
    path.write_text(KATA, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as made:
        yield made


def solution(folder: Path, body: str, beside: str = "") -> Slice:
    """Return the slice of a function that runs ``body`` and then returns the right answer."""
    path = folder / "lesson.py"
    code = "import torch\n" + (beside + "\n" if beside else "")
    code += "def double(x):\n" + textwrap.indent(f"{body}\nreturn 2 * x\n", "    ")
    path.write_text(code, encoding="utf-8")
    return cut_out(path, "double")


def refused(report: KataReport, ending: str, sentence: str) -> None:
    """Assert that the report is no pass, says what is expected, names a next step, and nothing runs on."""
    import re

    text = " ".join(str(report).split("Your code printed:")[0].split())
    assert report.status == "failed", text
    assert re.fullmatch(ending, report.ending), (report.ending, text)
    assert re.search(sentence, text), text
    assert "Next: " in text
    assert not left_running(), text


def left_running() -> list[str]:
    """Return the sleepers of this module's snippets that still live, wherever they were adopted."""
    seen = [process.info for process in psutil.process_iter(["cmdline", "status"])]
    alive = [info["cmdline"] for info in seen if info["cmdline"] and info["status"] != "zombie"]
    return [" ".join(words) for words in alive if words[-1] == "987"]


@pytest.mark.skipif(
    sys.platform == "win32", reason="the snippets use POSIX calls; the endings without them are tested below"
)
@pytest.mark.parametrize("snippet", HOSTILE)
def test_hostile_code_gets_a_sentence_and_no_pass(
    workers: Workers, kata_file: Path, tmp_path: Path, snippet: str
) -> None:
    body, ending, sentence = HOSTILE[snippet]
    limit = 1.0 if ending == "time" else 20.0
    report = workers.grade(solution(tmp_path, body), seconds=limit, memory_bytes=1 << 30, kata_file=kata_file)
    refused(report, ending, sentence)
    assert Path.cwd().is_dir()  # ours is untouched


@pytest.mark.parametrize("snippet", LOADED)
def test_code_beside_the_function_gets_a_sentence_too(
    workers: Workers, kata_file: Path, tmp_path: Path, snippet: str
) -> None:
    beside, ending, sentence = LOADED[snippet]
    limit = 1.0 if ending == "time" else 20.0
    cut = solution(tmp_path, "y", beside)
    refused(workers.grade(cut, seconds=limit, kata_file=kata_file), ending, sentence)


def test_right_wrong_and_open(workers: Workers, kata_file: Path, tmp_path: Path) -> None:
    passed = workers.grade(solution(tmp_path, "print('hello')"), kata_file=kata_file)
    assert passed.passed and passed.printed.startswith("hello\n") and "Your code printed:" in str(passed)
    assert passed.num_cases > 1
    wrong = workers.grade(solution(tmp_path, "return x + 2"), kata_file=kata_file)
    assert wrong.status == "failed" and wrong.sentence == "Adding two is not doubling" and not wrong.printed
    stub = workers.grade(solution(tmp_path, 'raise NotImplementedError("your turn")'), kata_file=kata_file)
    assert stub.status == "open"


def test_the_thread_of_a_progress_bar_is_nobodys_fault(workers: Workers, kata_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tqdm")  # which PyTorch's compiler uses, too, where it is installed
    bar = "import tqdm\nfor _ in tqdm.tqdm(range(3)): pass"
    report = workers.grade(solution(tmp_path, bar), kata_file=kata_file)
    assert report.passed, str(report)


def test_every_grade_starts_from_clean_memory(workers: Workers, kata_file: Path, tmp_path: Path) -> None:
    dirty = "import builtins, os\nbuiltins.seen = 1; os.environ['SEEN'] = '1'; open('seen', 'w').close()"
    assert workers.grade(solution(tmp_path, dirty), kata_file=kata_file).passed
    look = "import builtins, os\nassert not hasattr(builtins, 'seen') and 'SEEN' not in os.environ and not os.listdir()"
    assert workers.grade(solution(tmp_path, look), kata_file=kata_file).passed


def test_the_environment_is_scrubbed(kata_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret")
    monkeypatch.setenv("BLACKBELT_HOME", str(tmp_path))
    show = "import os\nprint(sorted(os.environ), os.getcwd(), os.path.expanduser('~'))"
    with Workers() as fresh:
        report = fresh.grade(solution(tmp_path, show), kata_file=kata_file, more=False)
        folder = fresh._current.folder
    assert report.passed and "PATH" in report.printed
    assert "MY_TOKEN" not in report.printed and "BLACKBELT_HOME" not in report.printed
    assert str(folder) in report.printed and not folder.exists()


def test_all_torch_threads_compute_in_a_fork(workers: Workers, kata_file: Path, tmp_path: Path) -> None:
    """A process forked beside running OpenMP threads would hang in its first parallel loop."""
    body = "big = torch.ones(2000, 2000)\n(big @ big).sum(); torch.sort(big); print(torch.get_num_threads())"
    report = workers.grade(solution(tmp_path, body), seconds=20, kata_file=kata_file)
    assert report.passed, str(report)


def test_output_without_end_is_cut(workers: Workers, kata_file: Path, tmp_path: Path) -> None:
    report = workers.grade(
        solution(tmp_path, "for i in range(100_000): print('line', i)"), seconds=20, kata_file=kata_file
    )
    assert report.ending in ("graded", "time") and len(report.printed) < 20_000
    assert "characters left out" in report.printed and "more lines" in str(report)


def test_a_worker_for_one_request(kata_file: Path, tmp_path: Path) -> None:
    """What runs where there is no fork: the worker grades in its own process, and a spare one warms up meanwhile."""
    with Workers(once=True) as single:
        first = single.grade(solution(tmp_path, "print('hello')"), kata_file=kata_file)
        assert first.passed and first.printed == "\n".join(["hello"] * first.printed.count("hello"))
        crash = single.grade(solution(tmp_path, "import os; os._exit(0)"), kata_file=kata_file)
        refused(crash, "exit", "ended the process")
        leaves = "import subprocess\nsubprocess.Popen(['sleep', '987'])"
        refused(
            single.grade(solution(tmp_path, leaves), kata_file=kata_file, more=False), "leftovers", "left a process"
        )
        with pytest.raises(WorkerError, match="is spent"):
            single._current.grade(solution(tmp_path, ""), kata_file=kata_file)


def test_a_worker_that_cannot_start_says_what_to_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Worker() as worker, pytest.raises(WorkerError, match=r"libtorch is broken\. Try .*import torch"):
        worker.grade(solution(tmp_path, ""))


def test_a_kata_that_does_not_load_is_not_the_learners_fault(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="no kata named 'double'"):
        workers.grade(solution(tmp_path, ""))


@pytest.mark.skipif(not CAN_FORK, reason="signals the worker's parent with SIGKILL")
def test_killed_at_any_moment_nothing_stays_behind(kata_file: Path, tmp_path: Path) -> None:
    """End the process that grades with ``kill -9`` while it waits for an endless loop with a daemon."""
    import subprocess

    body = "import subprocess\nsubprocess.Popen(['setsid', '-f', 'sleep', '987'])\nwhile True: pass"
    solution(tmp_path, body)
    code = (
        "from blackbelt.dojo.isolation import *; from blackbelt.dojo.slicing import *; from pathlib import Path\n"
        "w = Worker(); print(w.process.pid, w.folder, flush=True)\n"
        f"w.grade(cut_out(Path({str(tmp_path / 'lesson.py')!r}), 'double'), kata_file=Path({str(kata_file)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        pid, folder = asking.stdout.readline().split()
        wait_until(lambda: bool(left_running()), 120)
        asking.kill()
    wait_until(lambda: not psutil.pid_exists(int(pid)), 60)
    wait_until(lambda: not left_running(), 60)
    wait_until(lambda: not Path(folder).exists(), 60)


def wait_until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
