"""Run a learner's slice inside a grading process, under limits, and word what came of it."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import importlib.util
import linecache
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from blackbelt.dojo.limits import count_processes, set_limits
from blackbelt.dojo.verdict import KataReport, failed
from blackbelt.report import format_bytes

if TYPE_CHECKING:
    from blackbelt.dojo.integrity import Guard
    from blackbelt.dojo.kata import Kata
    from blackbelt.dojo.worker import Channel

_THREAD_GRACE_SECONDS = 0.2
_NO_MEMORY = re.compile(
    r"can't allocate memory|Cannot allocate memory|MemoryError|not enough memory|bad_alloc", re.IGNORECASE
)


def prepare() -> int:
    """Import all that grading needs; return the number of threads torch would use.

    This process computes on one thread: a fork of a process whose OpenMP threads run would hang in its first parallel
    loop.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    from blackbelt.dojo import grader  # noqa: F401

    gc.freeze()  # keeps the collector's marks from copying the pages that forks share
    return num_threads


def import_ahead() -> None:
    """Import what torch itself imports at the first ``broadcast_shapes`` or view of a meta tensor; it takes seconds."""
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.fx.experimental.symbolic_shapes")


def import_kata(order: Mapping[str, Any]) -> Guard:
    """Import the file of a request's kata, so that a fork finds it there, and remember what must stay as it is.

    What goes wrong is left to the fork, which tells of it.
    """
    from blackbelt.dojo.kata import load_kata

    if not order["kata_file"]:
        with contextlib.suppress(Exception):
            if load_kata(order["kata"]).ranks:
                importlib.import_module("torch._dynamo")  # DistributedDataParallel would import it in every fork
    return _remember(len(sys.modules))


@functools.lru_cache(maxsize=1)
def _remember(_: int) -> Guard:
    """Return a guard, a new one only after more modules were imported: making it in a fork would copy many pages."""
    from blackbelt.dojo.integrity import Guard

    return Guard()


def grade_here(order: Mapping[str, Any], channel: Channel, num_threads: int, guard: Guard | None = None) -> None:
    """Grade one request in this process and send the verdict; end the process unless it is a worker for one request."""
    import torch

    from blackbelt.dojo.integrity import Guard

    own = os.getpid()
    torch.set_num_threads(num_threads)
    set_limits(order["seconds"], order["memory_bytes"])
    try:
        kata = _load_kata(order)
    except Exception as error:
        channel.send(event="problem", number=order["number"], words=f"{type(error).__name__}: {error}")
        os._exit(0)
    report = judge(kata, order, guard or Guard())
    if os.getpid() != own:
        os._exit(0)  # a fork made by the learner's code, which came back from the function as well
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    channel.send(event="verdict", number=order["number"], report=report.to_dict())
    if not order["once"]:
        os._exit(0)


def judge(kata: Kata, order: Mapping[str, Any], guard: Guard) -> KataReport:
    """Run the slice, grade its function, and look at what was left behind. Never raises for what the code does."""
    from blackbelt.dojo.grader import grade
    from blackbelt.dojo.trial import call

    threads, stdout = set(threading.enumerate()), sys.stdout
    folder = Path.cwd()
    count_processes()
    name, pieces = kata.name, order["pieces"]
    where = "while your file was run, before grading"
    try:
        loaded = call(run_pieces, (pieces,))
        if loaded.error is not None:
            return guarded(guard, name) or _raised(name, loaded.error, pieces, where)
        changed = [state for state in loaded.changed_state if "random" not in state]
        if changed:
            return failed(
                name, "state", f"running your file changed {' and '.join(changed)}", "Take that line out of the file."
            )
        found = guarded(guard, name)
        if found is not None:
            return found
        where = "while it was graded"
        graded = grade(kata, loaded.value[name])
    except BaseException as error:  # KeyboardInterrupt, and whatever a patched grader raises
        sys.stdout = stdout
        return guarded(guard, name) or _raised(name, error, pieces, where)
    found = guarded(guard, name)
    if found is None and graded.passed:
        found = _left_behind(name, threads, folder)
    if found is not None:
        return found
    if not graded.passed and _NO_MEMORY.search(graded.sentence):
        return _out_of_memory(name, order["memory_bytes"], graded.sentence)
    return graded


def run_pieces(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Run the kept statements of every cell, in order, in one new module; return its namespace.

    Tracebacks show the learner's own lines. A ``from __future__`` import holds for the cells after it, as in Jupyter.
    """
    module = ModuleType("learner")
    sys.modules["learner"] = module
    texts: dict[str, list[str]] = {}
    flags = 0
    for piece in pieces:
        label, text = piece["label"], piece["text"]
        lines = text.splitlines(keepends=True)
        before = texts.setdefault(label, [])
        before += [""] * (len(lines) - len(before))
        before[: len(lines)] = [new if new.strip() else old for new, old in zip(lines, before)]
        linecache.cache[label] = (sum(map(len, before)), None, before, label)
        tree = ast.parse(text, label)
        tree.body = [tree.body[index] for index in piece["keep"]]
        code: CodeType = compile(tree, label, "exec", flags=flags, dont_inherit=True)
        flags |= code.co_flags & _FUTURE_FLAGS
        exec(code, module.__dict__)  # noqa: S102  running the learner's code is the point
    return vars(module)


def guarded(guard: Guard, name: str) -> KataReport | None:
    """Put back what the code replaced and say so; None where it replaced nothing."""
    replaced = guard.changed()
    if not replaced:
        return None
    guard.restore()
    names = ", ".join(f"`{each}`" for each in replaced[:4])
    return failed(
        name,
        "integrity",
        f"the code replaced {names}, which the grader relies on",
        "Remove the assignment. A verdict reached with patched tools says nothing about the solution.",
    )


def _load_kata(order: Mapping[str, Any]) -> Kata:
    """Return the kata, from the course or from ``kata_file``. Raises what its file raises: no fault of the learner."""
    from blackbelt.dojo.kata import load_kata

    if not order["kata_file"]:
        return load_kata(order["kata"])
    spec = importlib.util.spec_from_file_location("blackbelt.katas.of_a_file", order["kata_file"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    kata: Kata = getattr(module, order["kata"])
    return kata


def _left_behind(name: str, threads: set[threading.Thread], folder: Path) -> KataReport | None:
    deadline = time.monotonic() + _THREAD_GRACE_SECONDS
    for thread in set(threading.enumerate()) - threads:
        target = getattr(thread, "_target", None)
        made_by = f"{getattr(target, '__module__', '')} {type(thread).__module__}"
        if type(thread).__name__ == "_DummyThread" or made_by.startswith("torch") or "tqdm" in made_by:
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            sentence = f"the code left a thread running ({thread.name})"
            return failed(name, "threads", sentence, "Wait for your threads with `join()`, or do without them.")
    try:
        os.fstat(1)
        closed = sys.stdout.closed
    except (OSError, AttributeError):
        closed = True
    if closed:
        return failed(name, "stdout", "the code closed standard output", "Remove the line that closes `sys.stdout`.")
    if not folder.is_dir():
        return failed(name, "folder", "the code deleted its working folder", "Remove the line that deletes files.")
    return None


def _raised(name: str, error: BaseException, pieces: Sequence[Mapping[str, Any]], where: str) -> KataReport:
    kind = type(error).__name__
    words = str(error).strip().splitlines()
    sentence = f"{kind} was raised {where}: {words[0] if words else 'no message'}"
    if isinstance(error, MemoryError):
        return failed(name, "memory", sentence, "Ask for less memory: compute sizes before you allocate.")
    labels = {piece["label"] for piece in pieces}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in labels]
    if isinstance(error, SyntaxError) and error.filename in labels:
        line = linecache.getline(error.filename or "", error.lineno or 0).strip()
        place = f"{error.filename}, line {error.lineno}: `{line}`"
    elif frames:
        place = f"{frames[-1].filename}, line {frames[-1].lineno}: `{frames[-1].line}`"
    else:
        place = "your function"
    advice = f"Look at {place}."
    if isinstance(error, NameError):
        advice += " The function and all it needs must be defined in the saved file."
    if isinstance(error, ImportError):
        advice += " Only installed packages can be imported here; a file beside the notebook cannot."
    return failed(name, "raised", sentence, advice)


def _out_of_memory(name: str, memory_bytes: int, words: str) -> KataReport:
    asked = re.search(r"allocate (\d+) bytes", words)
    size = f" ({format_bytes(int(asked[1]))} at once)" if asked else ""
    sentence = f"the code asked for more memory than the limit of {format_bytes(memory_bytes)}{size}"
    return failed(
        name, "memory", sentence, "No kata needs that much: look for a size that grows with every call or is copied."
    )


def _future_flags() -> int:
    import __future__

    flags = 0
    for name in __future__.all_feature_names:
        flags |= getattr(__future__, name).compiler_flag
    return flags


_FUTURE_FLAGS = _future_flags()
