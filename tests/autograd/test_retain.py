"""trace_retained names the holder of every planted leak, with its lines, and is silent where a loop is clean.

Each program is run as a file of its own. The oracles are the marks in it, the same program without the tool, walks of
the graph written here, and bytes counted by hand.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from blackbelt.autograd.retain import RetainedReport, trace_retained
from tests.autograd.retain_leaks import FIXED_ELSEWHERE, LEAKS
from tests.autograd.retain_programs import CLEAN, NOTES


def execute(source: str, folder: Any, seed: int = 0) -> dict[str, Any]:
    path = folder / "program.py"
    path.write_text(source.strip() + "\n")
    torch.manual_seed(seed)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "checkpoint": checkpoint}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names


def marked(source: str, mark: str) -> int | None:
    return next((n for n, line in enumerate(source.strip().splitlines(), 1) if f"# {mark}" in line), None)


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward.. with create_graph")
        warnings.filterwarnings("ignore", message="Lazy modules are a new feature")
        yield


def both(source: str, folder: Any) -> tuple[RetainedReport, dict[str, Any]]:
    """Run a program plainly and traced, compare what came of it to the bit, and return report and names."""
    plain = execute(source, folder)
    takes_number = plain["step"].__code__.co_argcount == 1
    for number in range(6):
        plain["step"](number) if takes_number else plain["step"]()
    state = torch.random.get_rng_state()
    names = execute(source, folder)
    report = trace_retained(names["step"])
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in pairs(plain, names):
        assert torch.equal(one, other)
        assert one._version == other._version
        assert one.requires_grad == other.requires_grad
        if one.is_leaf:
            assert (one.grad is None) == (other.grad is None)
            assert one.grad is None or torch.equal(one.grad, other.grad)
    return report, names


def pairs(plain: dict[str, Any], names: dict[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for key, value in plain.items():
        if isinstance(value, torch.Tensor):
            yield value, names[key]
        elif isinstance(value, nn.Module):
            yield from zip(value.state_dict(keep_vars=True).values(), names[key].state_dict(keep_vars=True).values())
        elif isinstance(value, list):
            yield from ((a, b) for a, b in zip(value, names[key]) if isinstance(a, torch.Tensor))


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", LEAKS)
def test_names_what_holds_the_graph_trains_the_same_and_gives_a_fix_that_ends_it(name, tmp_path):
    leak = LEAKS[name]
    report, _ = both(leak.source, tmp_path)
    if leak.kind == "cycle" and not any(type(item) is nn.Parameter for item in gc.get_objects()):
        pytest.skip("this version of PyTorch drops the Python objects of what C++ alone holds (2.9)")
    assert not report.ok, report
    assert [finding.held_by for finding in report.findings] == [leak.held_by]
    (finding,) = report.findings
    assert finding.kind == leak.kind
    assert finding.made_at.file == str(tmp_path / "program.py")
    assert finding.made_at.line == marked(leak.source, "made")
    assert (finding.stored_at.line if finding.stored_at else None) == marked(leak.source, "stored")
    assert finding.num_nodes > 0
    assert finding.why
    assert finding.fix
    assert report.nodes_per_step[-1] > report.nodes_per_step[2]
    assert max(map(len, str(report).splitlines())) <= 80
    assert "keeps the graph of every step" in " ".join(str(report).split())
    if name not in FIXED_ELSEWHERE:
        fixed = trace_retained(execute(with_fix(leak.source, finding.fix), tmp_path)["step"])
        assert fixed.ok, fixed
        assert fixed.nodes_growth == 0


def with_fix(source: str, fix: str) -> str:
    """Return a program with the fix in place of the line that stores."""
    lines = source.strip().splitlines()
    number = marked(source, "stored") - 1
    indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
    lines[number] = "\n".join(indent + line for line in fix.splitlines())
    return "\n".join(lines)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", CLEAN)
def test_silent_on_clean_loops_and_trains_the_same(name, tmp_path):
    report, _ = both(CLEAN[name], tmp_path)
    assert report.ok, report
    assert "No graph outlives its step" in str(report)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", NOTES)
def test_notes_what_is_no_leak_of_a_graph(name, tmp_path):
    note = NOTES[name]
    report, _ = both(note.source, tmp_path)
    assert report.ok
    assert [(one.kind, one.held_by) for one in report.notes] == [(note.kind, note.held_by)]
    assert (report.notes[0].stored_at.line if report.notes[0].stored_at else None) == marked(note.source, "stored")
    assert "Note." in str(report)


# --- numbers ---


def count_nodes(node: Any) -> int:
    seen, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend(other for other, _ in node.next_functions)
    return sum("AccumulateGrad" not in node.name() for node in seen)


def test_nodes_are_those_of_the_graph(tmp_path):
    report, names = both(LEAKS["total += loss"].source, tmp_path)
    assert report.nodes_per_step[-1] == count_nodes(names["total"].grad_fn)
    assert report.findings[0].num_nodes == report.nodes_per_step[-1]
    assert report.nodes_growth == 4  # matmul, tanh, sum, add
    assert report.findings[0].steps == (1, 2, 3, 4, 5, 6)
    assert report.findings[0].operation == "AddBackward0"


def test_bytes_are_those_of_the_tensors_each_once():
    weight = torch.ones(4, 4, requires_grad=True)
    kept = []

    def step():
        out = weight.exp()  # its output is saved: one storage for tensor and node
        kept.append((out, out.view(16)))

    report = trace_retained(step)
    assert report.bytes_per_step == (64, 128, 192, 256, 320, 384)
    assert report.bytes_growth == 64
    assert report.findings[0].num_bytes == 384
    assert report.tensors_per_step == (2, 4, 6, 8, 10, 12)


def test_saved_tensors_count_and_freed_ones_do_not():
    weight = torch.ones(1000, requires_grad=True)
    kept = []

    def step(free):
        loss = weight.exp().sum()
        if free:
            loss.backward()
        kept.append(loss)

    freed = trace_retained(functools.partial(step, True))
    assert freed.bytes_per_step == tuple(4000 + 4 * n for n in range(1, 7))  # the gradient, once, and the losses
    kept.clear()
    assert trace_retained(functools.partial(step, False)).bytes_per_step == tuple(4004 * n for n in range(1, 7))


def test_a_list_of_detached_tensors_is_counted_in_bytes():
    weight = torch.ones(8, 2, requires_grad=True)
    kept = []
    report = trace_retained(lambda: kept.append((weight * 2).detach()))
    assert report.ok
    assert report.bytes_growth == 64
    assert report.nodes_per_step == (0,) * 6
    assert report.notes[0].kind == "tensors"


def test_two_leaks_are_two_findings(tmp_path):
    source = """
w = torch.randn(4, requires_grad=True)
total = 0.0
history = []
def step():
    global total
    out = w.exp()
    history.append(out)
    loss = out.sum()
    loss.backward()
    total += loss
"""
    report = trace_retained(execute(source, tmp_path)["step"])
    assert {(finding.held_by, finding.made_at.line) for finding in report.findings} == {
        ("global `history[5]`", 6),
        ("global `total`", 10),
    }


def test_what_was_there_before_is_not_counted(tmp_path):
    names = execute(LEAKS["total += loss"].source, tmp_path)
    for _ in range(20):
        names["step"]()
    assert trace_retained(names["step"]).nodes_per_step == (4, 8, 12, 16, 20, 24)


def test_the_names_of_a_local_variable():
    weight = torch.ones(3, requires_grad=True)
    losses = []
    finding = trace_retained(lambda: losses.append(weight.exp().sum())).findings[0]
    assert finding.held_by in (
        "local `losses[5]` of `test_the_names_of_a_local_variable`",
        "closure variable `losses[5]` of the function `<lambda>`",
    )


# --- the report ---


def test_report_reads_as_text_html_and_json(tmp_path):
    report = trace_retained(execute(LEAKS["a list of outputs"].source, tmp_path)["step"])
    text = str(report)
    for part in ("Global `outputs[5]` keeps the graph of every step", "program.py:6", "outputs.append(out.detach())"):
        assert part in text
    assert "outputs.append(out.detach())" in report._repr_html_()
    values = report.to_dict()
    assert values["nodes_per_step"] == [3, 6, 9, 12, 15, 18]
    assert values["findings"][0]["made_at"]["line"] == 4
