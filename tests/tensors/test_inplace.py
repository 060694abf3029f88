"""trace_inplace finds the culprit in every failure below, names both lines, and stays silent where in-place is fine.

Each program is run as a file of its own. The oracles are the marks in it, PyTorch's own error without the trace, and
gradients written out by hand.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from blackbelt.tensors.inplace import InplaceError, InplaceReport, trace_inplace
from tests.tensors.inplace_programs import FAILURES, LEGITIMATE

NATIVE = "one of the variables needed for gradient computation has been modified by an inplace operation"


def execute(source: str, folder: Any, seed: int = 0) -> dict[str, Any]:
    path = folder / "program.py"
    path.write_text(source.strip() + "\n")
    torch.manual_seed(seed)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": functional, "np": np, "checkpoint": checkpoint}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names


def marked(source: str, mark: str) -> int | None:
    return next((n for n, line in enumerate(source.strip().splitlines(), 1) if f"# {mark}" in line), None)


def traced(source: str, folder: Any) -> tuple[InplaceReport, RuntimeError | None]:
    trace = trace_inplace()
    try:
        with trace:
            execute(source, folder)
    except RuntimeError as error:
        return trace.report(), error
    return trace.report(), None


@pytest.mark.parametrize("name", FAILURES)
def test_finds_the_culprit(name, tmp_path):
    failure = FAILURES[name]
    report, error = traced(failure.source, tmp_path)
    assert report.findings, "nothing was found"
    finding = report.findings[0]
    assert (finding.kind, finding.saved_by, finding.changed_by) == (failure.kind, failure.saved_by, failure.changed_by)
    assert finding.changed_at.file == str(tmp_path / "program.py")
    assert finding.changed_at.line == marked(failure.source, "changes")
    if failure.saved_by:
        assert finding.saved_at.line == marked(failure.source, "saves")
    assert isinstance(error, InplaceError) == (failure.kind != "unseen")
    assert finding.why
    assert finding.fix


@pytest.mark.parametrize("name", FAILURES)
def test_raises_where_pytorch_does_in_the_same_words(name, tmp_path):
    source = FAILURES[name].source
    native = None
    try:
        execute(source, tmp_path)
    except RuntimeError as error:
        native = error
    _, traced_error = traced(source, tmp_path)
    assert (native is None) == (traced_error is None)
    if native is not None:
        # Left out: which node the tensor came from. PyTorch names the node of now, the trace that of the save.
        first, ours = (
            re.sub(r", which is output \d+ of \w+,", "", str(e).split(" Hint:")[0].split("\n")[0])
            for e in (native, traced_error)
        )
        assert ours == first


@pytest.mark.parametrize("name", LEGITIMATE)
def test_silent_where_in_place_is_fine(name, tmp_path):
    report, error = traced(LEGITIMATE[name], tmp_path)
    assert error is None
    assert report.ok
    assert "No tensor that backward needs was changed" in str(report) or report.num_saved == report.num_writes == 0


@pytest.mark.parametrize("name", [*LEGITIMATE, *(name for name, f in FAILURES.items() if f.kind == "unseen")])
def test_gradients_values_and_rng_stay_the_same_to_the_bit(name, tmp_path):
    source = LEGITIMATE[name] if name in LEGITIMATE else FAILURES[name].source
    plain = execute(source, tmp_path)
    state = torch.random.get_rng_state()
    with trace_inplace():
        names = execute(source, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    for key, value in plain.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(names[key], value)
            if value.is_leaf and value.grad is not None:
                assert torch.equal(names[key].grad, value.grad)
        if isinstance(value, nn.Module):
            for one, other in zip(value.parameters(), names[key].parameters()):
                assert one.grad is None or torch.equal(one.grad, other.grad)


# What the program means, as a gradient written out by hand: d(sum(y))/dx for the program whose write stands *after*
# the save.
MEANT = {
    "+= on the output of sigmoid": ("x", lambda n: n["x"].sigmoid() * (1 - n["x"].sigmoid())),
    "a view of a saved tensor": ("x", lambda n: n["x"].exp()),
    "index assignment": ("x", lambda n: n["x"].exp() * (n["x"].exp() <= 1)),
    "detach() shares the version": ("x", lambda n: n["x"].exp()),
    ".data edit": ("x", lambda n: 2 * n["x"].exp()),
    "assignment to .data of an intermediate": ("x", lambda n: 3 * (2 * n["x"]) ** 2 * 2),
}


@pytest.mark.parametrize("name", MEANT)
def test_the_fix_runs_and_gives_the_gradient_that_was_meant(name, tmp_path):
    source = FAILURES[name].source.strip()
    report, _ = traced(source, tmp_path)
    line = marked(source, "changes")
    lines = source.splitlines()
    lines[line - 1] = report.findings[0].fix
    fixed, error = traced("\n".join(lines), tmp_path)
    assert error is None and fixed.ok, fixed
    names = execute("\n".join(lines), tmp_path)
    leaf, gradient = MEANT[name]
    torch.testing.assert_close(
        names[leaf].grad, gradient({k: v.detach() for k, v in names.items() if torch.is_tensor(v)})
    )


def test_the_fix_of_the_rnn_runs(tmp_path):
    source = FAILURES["the hidden states of an RNN in one tensor"].source.strip()
    report, _ = traced(source, tmp_path)
    assert not report.findings[0].values_changed
    assert "torch.stack" in report.findings[0].fix
    body = "\n".join("    " + line for line in report.findings[0].fix.splitlines())
    lines = source.splitlines()
    lines[marked(source, "changes") - 1] = body
    names = execute("\n".join(lines), tmp_path)
    w = names["w"].detach().requires_grad_()
    states = [torch.zeros(3)]
    for _ in range(3):
        states.append(torch.tanh(states[-1] @ w))
    torch.stack(states).sum().backward()
    torch.testing.assert_close(names["w"].grad, w.grad)


def test_the_report_says_who_when_why_and_what_to_do(tmp_path):
    report, error = traced(FAILURES["+= on the output of sigmoid"].source, tmp_path)
    text = str(report)
    assert "Backward stopped: `sigmoid` saved this tensor at version 0, `add_` made it" in text
    assert "saved by     sigmoid (SigmoidBackward0)   program.py:2" in text
    assert "changed by   add_                         program.py:3" in text
    assert "y += 1" in text and "y = y + 1" in text
    assert report.findings[0].tensor == "float32 (3,), output 0 of SigmoidBackward0"
    assert text in str(error) and error.report.findings == report.findings
    assert str(error).startswith(
        f"{NATIVE}: [torch.FloatTensor [3]], which is output 0 of SigmoidBackward0, is at version 1;"
    )


def test_the_report_on_an_unseen_edit_says_that_the_gradient_is_wrong(tmp_path):
    report, _ = traced(FAILURES[".data edit"].source, tmp_path)
    text = " ".join(str(report).split())
    assert "The gradient is wrong: `exp` saved this tensor, and `mul_` changed it unseen." in text
    assert "`.data` shares the storage but has a version counter of its own" in text
    assert "y = y.mul(2)" in text


@pytest.mark.parametrize("name", FAILURES)
def test_looks(name, tmp_path):
    report, _ = traced(FAILURES[name].source, tmp_path)
    code = {
        line.strip()
        for f in report.findings
        for place in (f.saved_at, f.changed_at)
        if place
        for line in place.code.split("\n")
    }
    for line in str(report).splitlines():
        assert len(line) <= 80 or any(part and part in line for part in code)
    assert "<table" in report._repr_html_()
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["kind"] == FAILURES[name].kind


def test_a_finding_names_the_module_that_wrote(tmp_path):
    report, _ = traced(FAILURES["ReLU(inplace=True) behind a Sigmoid"].source, tmp_path)
    assert report.findings[0].changed_at.module == "ReLU"
    assert report.findings[0].saved_at.module == "Tanh"
    assert report.findings[0].fix == "nn.ReLU(inplace=False)"


def test_several_findings_and_several_writes():
    x, z = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    with trace_inplace() as trace:
        a, b = x.exp(), z.sigmoid()
        a.data.add_(1)
        a.data.add_(1)
        b.data.zero_()
        (a.sum() + b.sum()).backward()
    assert sorted(f.saved_by for f in trace.findings) == ["exp", "sigmoid"]
    found = next(f for f in trace.findings if f.saved_by == "exp")
    assert found.num_writes == 2
    assert "add_ (and 1 more)" in str(trace.report())


def test_a_second_backward_does_not_report_twice():
    x = torch.randn(3, requires_grad=True)
    with trace_inplace() as trace:
        y = x.exp()
        y.data.add_(1)
        y.sum().backward(retain_graph=True)
        y.sum().backward()
    assert len(trace.findings) == 1


def test_backward_behind_the_with_is_still_explained():
    x = torch.randn(3, requires_grad=True)
    with trace_inplace() as trace:
        y = x.exp()
        y.add_(1)
    with pytest.raises(InplaceError, match="`exp` saved this tensor at version 0"):
        y.sum().backward()
    assert trace.findings[0].changed_by == "add_"


def test_forward_before_the_with_says_so():
    x = torch.randn(3, requires_grad=True)
    y = x.exp()
    y.add_(1)
    with pytest.raises(InplaceError, match="The forward pass ran before") as caught, trace_inplace() as trace:
        y.sum().backward()
    assert str(caught.value).startswith(NATIVE)
    assert len(trace.findings) == 1


def test_other_errors_pass_untouched():
    with pytest.raises(RuntimeError, match="size of tensor a") as caught, trace_inplace() as trace:
        torch.ones(2) + torch.ones(3)
    assert type(caught.value) is RuntimeError
    with pytest.raises(KeyError), trace_inplace():
        raise KeyError("x")
    assert trace.report().ok


def test_an_error_caught_inside_is_recorded():
    with trace_inplace() as trace:
        w = torch.zeros(2, requires_grad=True)
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            w += 1
    assert trace.findings[0].kind == "refused"
    assert trace.findings[0].fix == "with torch.no_grad():  # an update of a weight\n    w += 1"


def test_nested_traces_share_what_they_see():
    x = torch.randn(3, requires_grad=True)
    with trace_inplace() as outer:
        y = x.exp()
        with trace_inplace() as inner:
            y.data.add_(1)
            y.sum().backward()
        z = x.sigmoid()
        z.data.add_(1)
        z.sum().backward()
    assert [f.saved_by for f in inner.findings] == ["exp"]
    assert [f.saved_by for f in outer.findings] == ["exp", "sigmoid"]


def test_double_backward_and_hooks():
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    seen = []
    with trace_inplace() as trace:
        y = x.sin()
        y.register_hook(lambda grad: seen.append(grad.clone()))
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, -x.detach().sin())
    assert trace.report().ok and len(seen) == 1


def test_checkpoint_gives_the_same_gradient():
    x = torch.randn(4, requires_grad=True)
    with trace_inplace() as trace:
        checkpoint(lambda t: t.sin().exp_(), x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos() * x.detach().sin().exp())
    assert trace.report().ok


def test_unchanged_names_an_argument_that_was_written():
    def center(x):
        x -= x.mean()
        return x

    data = torch.arange(6.0).reshape(2, 3)
    with trace_inplace(unchanged={"data": data}) as trace:
        center(data[0])
    finding = trace.findings[0]
    assert (finding.kind, finding.tensor, finding.changed_by, finding.changed_at.function) == (
        "argument", "data", "sub_", "center",
    )  # fmt: skip
    assert finding.fix == "x = x - x.mean()"
    assert "`data` was to stay unchanged, and `sub_` changed it." in str(trace.report())
    with trace_inplace(unchanged=[data]) as trace:
        data.clone().add_(1)
    assert trace.report().ok


def test_bad_input_is_named():
    with pytest.raises(TypeError, match=r"unchanged is a Tensor; it takes a list or a dict of tensors\."):
        trace_inplace(unchanged=torch.ones(2))
    with pytest.raises(TypeError, match=re.escape("unchanged holds x = [1] of type list; it takes tensors.")):
        trace_inplace(unchanged={"x": [1]})
    with trace_inplace() as trace:
        pass
    with pytest.raises(RuntimeError, match="has been entered before; make a new one"), trace:
        pass
    assert "put the forward pass inside the `with`" in str(trace.report())
    assert trace_inplace().report().ok


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(4, 3).T,
        lambda: torch.randn(1, 3).expand(4, 3),
        lambda: torch.randn(4, 3, dtype=torch.complex64).conj(),
        lambda: torch.randn(4, 3).bfloat16()[:, ::2],
        lambda: torch.tensor(2.0),
        lambda: torch.tensor([float("nan"), 1.0]),
        lambda: torch.arange(200_000.0),
    ],
)
def test_any_single_changed_element_is_seen_in_any_layout(make):
    base = make()
    x = torch.ones_like(base).requires_grad_()
    with trace_inplace() as trace:
        (x * base).abs().sum().backward()
    assert trace.report().ok
    with trace_inplace() as trace:
        y = (x * base).abs().sum()
        base.data.view(-1)[-1].add_(1) if base.is_contiguous() else base.data[(-1,) * base.dim()].add_(1)
        y.backward()
    assert any(f.saved_by == "mul" for f in trace.findings)


def test_swapped_elements_are_seen():
    x, c = torch.ones(4, requires_grad=True), torch.tensor([1.0, 2.0, 3.0, 4.0])
    with trace_inplace() as trace:
        y = (x * c).sum()
        c.data.copy_(c.flip(0))
        y.backward()
    assert trace.findings[0].changed_by == "copy_"


def test_nothing_is_kept_alive():
    import weakref

    with trace_inplace() as trace:
        x = torch.randn(3, requires_grad=True)
        y = x.exp()
        gone = weakref.ref(y)
        y.sum().backward()
        del y
        assert gone() is None
        assert not trace._recorder._groups


def run_script(script):
    """What PyTorch answers to a script of the kata `version_after`."""
    names: dict[str, torch.Tensor] = {}
    for name, method, *source in script:
        if method == "empty":
            names[name] = torch.empty(4)
        elif method.endswith("_"):
            names[name].zero_() if method == "zero_" else names[name].add_(1)
        else:
            x = names[source[0]]
            made = {"view": lambda x: x.view(x.shape), "select": lambda x: x[:2], "data": lambda x: x.data}
            plain = {"detach": torch.detach, "clone": torch.clone, "add": lambda x: x + 1, "relu": torch.relu}
            names[name] = {**made, **plain}[method](x)
    return {name: tensor._version for name, tensor in names.items()}


def test_the_reference_of_version_after_agrees_with_pytorch():
    import random

    from blackbelt.dojo.kata import load_kata

    kata, generator = load_kata("version_after"), random.Random(0)
    methods = ("view", "select", "detach", "data", "clone", "add", "relu", "add_", "zero_", "add_")
    for _ in range(300):
        script = [("a", "empty")]
        for _ in range(generator.randrange(9)):
            source, method = generator.choice(sorted({step[0] for step in script})), generator.choice(methods)
            script.append((source, method) if method.endswith("_") else (generator.choice("abcd"), method, source))
        assert kata.reference(script) == run_script(script), script


def test_a_compiled_function_runs_under_the_trace():
    compiled = torch.compile(lambda x: (x.sin() + 1).sum(), backend="eager", fullgraph=True)
    x = torch.ones(3, requires_grad=True)
    with trace_inplace() as trace:
        compiled(x).backward()
    assert trace.report().ok
    assert torch.equal(x.grad, torch.ones(3).cos())
