"""The tools from a terminal, and what this machine can show."""

from __future__ import annotations

import json
import os
import platform

import pytest
import torch

from blackbelt import explain_broadcast, explain_einsum, explain_view


def test_broadcast_says_what_the_tool_says(invoke):
    done = invoke("explain", "broadcast", "(32, 1)", "(32,)")
    assert done.exit_code == 0
    assert done.stdout == f"{explain_broadcast((32, 1), (32,))}\n"


@pytest.mark.parametrize("stride", [None, (1, 4)])
def test_view_takes_a_size_and_a_stride(invoke, stride):
    tensor = torch.empty(4, 6) if stride is None else torch.empty_strided((4, 6), stride)
    options = [] if stride is None else ["--stride", str(stride)]
    done = invoke("explain", "view", "(4, 6)", "(2, -1)", *options)
    assert done.exit_code == 0
    assert done.stdout == f"{explain_view(tensor, 2, -1)}\n"
    facts = json.loads(invoke("explain", "view", "(4, 6)", "24", "--json", *options).stdout)
    assert facts["possible"] == (stride is None)


def test_einsum_takes_an_equation_and_sizes(invoke):
    done = invoke("explain", "einsum", "ij,jk->ik", "(3,4)", "[4, 5]")
    assert done.exit_code == 0
    assert done.stdout == f"{explain_einsum('ij,jk->ik', (3, 4), (4, 5))}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["broadcast", "(3,", "(3,)"], "'(3,' is no size; expected whole numbers in parentheses, in quotes, such as"),
        (["broadcast", "(3.5,)"], "'(3.5,)' is no size"),
        (["broadcast", "(True,)"], "'(True,)' is no size"),
        (["broadcast", "__import__('os')"], "is no size"),
        (["broadcast", "(3, -1)"], "-1"),
        (["broadcast", "(3,)", "--stride", "(1,)"], "--stride '(1,)' was passed to broadcast; only view takes it"),
        (["view", "(4, 6)"], "view got 1 of its sizes; expected two"),
        (
            ["view", "(4, 6)", "(24,)", "--stride", "(1,)"],
            "--stride (1,) for size (4, 6); expected 2 steps of 0 or more",
        ),
        (["view", "(4, 6)", "(24,)", "--stride", "(-1, 2)"], "expected 2 steps of 0 or more"),
        (["view", "(4, -1)", "(24,)"], "expected 0 or more in each dimension"),
        (["einsum", "ij,jk->ik"], "einsum got the equation 'ij,jk->ik' and no size; expected one per operand"),
        (["einsum", "ij,jk->ik", "(3, 4)", "(5, 5)"], "`j` has size 4 in operand 0 and 5 in operand 1"),
        (["einsum", "ij->", "(2, 3, 4)"], "ij"),
        (["vew", "(1,)"], "vew"),
    ],
)
def test_what_no_tool_takes_is_said_in_one_line(invoke, arguments, words):
    done = invoke("explain", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    if arguments[0] != "vew":
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_view_that_is_refused_is_an_answer(invoke):
    done = invoke("explain", "view", "(4, 6)", "(5, 5)")
    assert done.exit_code == 0
    assert "✗" in done.stdout


@pytest.mark.parametrize("size", ["()", "(0,)", "(0, 3)"])
def test_sizes_without_elements(invoke, size):
    assert invoke("explain", "broadcast", size, "(1,)").exit_code == 0
    assert invoke("explain", "view", size, size).exit_code == 0


def test_env_as_text_and_as_json(invoke):
    text = invoke("env").stdout
    assert str(torch.__version__) in text and platform.python_version() in text
    assert max(map(len, text.splitlines())) <= 80
    facts = json.loads(invoke("env", "--json").stdout)
    assert facts["torch"] == str(torch.__version__)
    assert facts["num_cores"] == os.cpu_count()
    assert facts["devices"][0] == "cpu"
    assert facts["can_show"]["claims that need a GPU"] == torch.cuda.is_available()


def test_env_without_a_compiler(invoke, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    facts = json.loads(invoke("env", "--json").stdout)
    assert facts["compiler"] is None
    assert facts["can_show"]["torch.compile on the CPU (needs a C++ compiler)"] is False
    assert "none found" in invoke("env").stdout
