"""Building on first use: once, by one of several processes, and in words where it cannot be done.

A kernel of one line stands in for ours, which take a minute; it goes through the same code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from blackbelt.reference.kernels import _build

SOURCE = """
#include <ATen/core/Tensor.h>
#include <torch/library.h>
TORCH_LIBRARY_FRAGMENT(blackbelt_trial, m) {
  m.def("answer(int x) -> int", [](int64_t x) -> int64_t { return x + 41; });
}
"""
LOAD = """
import sys, torch
from pathlib import Path
from blackbelt.reference.kernels import _build
trial = _build.Extension("blackbelt_trial", (Path(sys.argv[1]),), seconds=7)
try:
    _build.load_extension(trial)
except RuntimeError as error:
    print("refused:", error)
else:
    print("answer", torch.ops.blackbelt_trial.answer(1))
"""


@pytest.fixture(name="source")
def write_source(tmp_path):
    path = tmp_path / "sources" / "trial.cpp"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def start(source, tmp_path, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(source)],
        env={**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "cache"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    return out.strip(), err


def load(source, tmp_path, **environment):
    return finish(start(source, tmp_path, **environment))


def needs_compiler():
    reason = _build.obstacle("cpu") if _build.compiler() is None or _build.ninja() is None else None
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.slow
def test_two_processes_build_once_and_the_third_finds_it(source, tmp_path):
    needs_compiler()
    both = [start(source, tmp_path) for _ in range(2)]
    ends = [finish(process) for process in both]
    assert [out for out, _ in ends] == ["answer 42", "answer 42"]
    assert "".join(err for _, err in ends).count("Building blackbelt_trial") == 1
    out, err = load(source, tmp_path)
    assert out == "answer 42"
    assert "Building" not in err

    # What was damaged is built anew, and what was changed is built beside it.
    (built,) = (tmp_path / "cache").glob("*/blackbelt_trial.so")
    built.unlink()
    built.write_bytes(b"\x7fELF, but no more of it")
    out, err = load(source, tmp_path)
    assert out == "answer 42"
    assert "Building blackbelt_trial (once on this machine, about 7 s) …\n" in err
    source.write_text(SOURCE.replace("41", "8"))
    out, _ = load(source, tmp_path)
    assert out == "answer 9"
    assert len(list((tmp_path / "cache").glob("*/blackbelt_trial.so"))) == 2


@pytest.mark.slow
def test_a_build_that_was_cut_short_is_done_again(source, tmp_path):
    needs_compiler()
    trial = _build.Extension("blackbelt_trial", (source,), seconds=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
        folder = trial.folder
    folder.mkdir(parents=True)
    (folder / "blackbelt_trial.so").write_bytes(b"half of it")  # and no file that says that it is complete
    (folder / "lock").touch()  # PyTorch's own, which would be waited for without end
    assert load(source, tmp_path)[0] == "answer 42"


@pytest.mark.slow
def test_an_error_of_the_compiler_is_shown_and_no_more(source, tmp_path):
    needs_compiler()
    source.write_text(SOURCE + "\nint broken = unknown_name;\n")
    out, _ = load(source, tmp_path)
    first, *lines = out.splitlines()
    assert first.startswith("refused: blackbelt_trial could not be compiled with ")
    assert len(lines) <= 8
    assert any("unknown_name" in line and "trial.cpp" in line for line in lines)


def test_without_a_compiler_the_sentence_says_what_is_missing(source, tmp_path):
    out, err = load(source, tmp_path, PATH="", CXX="")
    assert out == (
        "refused: blackbelt_trial cannot be built: "
        "no C++ compiler was found (c++, g++, clang++; install one, or set CXX)"
    )
    assert "Building" not in err


def test_a_compiler_that_is_not_there_is_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert _build.compiler() is None


def test_a_cache_that_cannot_be_written_is_named(source, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    out, _ = load(source, tmp_path)
    assert f"refused: kernels are kept in {tmp_path / 'cache'}, which cannot be written" in out
    assert "TORCH_EXTENSIONS_DIR" in out


def test_a_missing_cache_folder_is_no_obstacle(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "not" / "there"))
    missing = _build.compiler() is None or _build.ninja() is None
    assert (_build.obstacle("cpu") is not None) == missing


def test_the_obstacle_to_cuda_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    assert "no C++ compiler was found" in (_build.obstacle("cuda") or "")


def test_content_and_flags_decide_what_is_built(source, tmp_path):
    trial = _build.Extension("blackbelt_trial", (source,), seconds=7)
    before = trial.digest
    (source.parent / "header.h").write_text("// a header beside it")
    assert trial.digest != before
    assert any(flag.startswith("-DCPU_CAPABILITY=") for flag in trial.flags)


def test_the_sources_are_in_the_package():
    sources = _build.extension("cpu").sources
    assert {path.name for path in sources} >= {"bias_gelu.cpp", "softmax.cpp", "rms_norm.cpp", "cross_entropy.cpp"}
    assert all(path.is_file() and Path(_build.__file__).parent in path.parents for path in sources)
