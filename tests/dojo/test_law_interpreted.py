"""Kernels on Triton's interpreter: loads are counted, addresses checked, and the learner told what is missing."""
# Triton's own conventions: pointers and constants in capitals, no types on a kernel's arguments.
# ruff: noqa: E402, N803

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.interpreted import COMPILING, Interpreted, Loads, LoadsInBlocks, interpret, must_interpret
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

interpret()

import triton
import triton.language as tl

ROW = torch.arange(10.0)


@triton.jit
def _copy_kernel(X, OUT, count, loaded, BLOCK: tl.constexpr, TIMES: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.zeros([BLOCK], tl.float32)
    for _ in range(TIMES):
        x = tl.load(X + place, mask=place < loaded, other=0.0)
    tl.store(OUT + place, x, mask=place < count)


def _copy(x, block=4, times=1, loaded=None, count=None):
    out = torch.empty_like(x)
    size = x.numel()
    grid = (triton.cdiv(size, block),)
    _copy_kernel[grid](x, out, count or size, loaded or size, BLOCK=block, TIMES=times)
    return out


def _trial(function):
    return Trial(kata_of(function, [], ROW), function, Case((ROW,)))


def test_the_interpreter_computes():
    assert torch.equal(_copy(ROW), ROW)


def test_loads_kept_and_broken():
    law = Loads(at_most=lambda x: x.numel())
    law.check(_trial(_copy))  # three blocks of four, ten of them inside
    with pytest.raises(LawBroken) as broken:
        law.check(_trial(lambda x: _copy(x, times=3)))
    assert (broken.value.expected, broken.value.got) == ("at most 10", "30 elements")


def test_blocks_kept_and_broken():
    law = LoadsInBlocks(at_most=4)
    law.check(_trial(_copy))
    with pytest.raises(LawBroken, match="One load asks for 8 elements"):
        law.check(_trial(lambda x: _copy(x, block=8)))


def test_a_launch_is_asked_for():
    Interpreted().check(_trial(_copy))
    with pytest.raises(LawBroken, match="launches no kernel"):
        Interpreted().check(_trial(torch.clone))


@pytest.mark.parametrize(("changed", "words"), [({"loaded": 12}, "a load outside"), ({"count": 12}, "a store outside")])
def test_an_address_outside_of_every_tensor_is_an_error(changed, words):
    x = ROW.clone()
    with pytest.raises(Exception, match=words) as error:
        _copy(x, **changed)
    assert "2 of 4 addresses" in str(error.value)


def test_a_kernel_that_would_be_compiled_is_refused_in_words(monkeypatch):
    must_interpret()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError) as error:
        must_interpret()
    assert str(error.value) == COMPILING


LATE = """
import os
os.environ.pop('TRITON_INTERPRET', None)
import triton, triton.language as tl, torch
from blackbelt.dojo.laws.interpreted import interpret
assert type(tl.zeros).__name__ == "JITFunction"
interpret()
from blackbelt.dojo.kata import load_kata
from blackbelt.dojo.grader import judge
from blackbelt.dojo.trial import Case
kata = load_kata("online_softmax_kernel")
case = Case(kata.edge_cases()["two blocks"], "two blocks")
print(judge(kata, kata.reference, case))
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, Triton that was imported before goes on compiling")
def test_triton_may_have_been_imported_before():
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "None", done.stdout + done.stderr


def test_without_triton_the_words_say_so():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from blackbelt.dojo.laws.interpreted import ABSENT, interpret\n"
        "try:\n    interpret()\n"
        "except ImportError as error:\n    print(str(error) == ABSENT)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "True", done.stderr
