"""check_function names each wrong function in the zoo for what is wrong with it, and finds nothing in the right ones.

The oracle is PyTorch's own autograd on the same forward in plain operators (``meant``), and for the random matrices
at the end the matrix itself.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from blackbelt import check_function
from blackbelt.autograd.functions import CAUSES, CHECKS, FunctionReport
from tests.autograd.function_specimen import floats
from tests.autograd.function_zoo import RIGHT, WRONG
from tests.autograd.function_zoo_gradients import IgnoresGradOutput, NoneForWeight
from tests.autograd.function_zoo_operators import cube
from tests.autograd.function_zoo_right import SinCos, Sine


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Two threads for five rows cost 100 ms a call where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def report_on(name: str) -> FunctionReport:
    specimen = (WRONG | RIGHT)[name]
    return check_function(specimen.fn, *specimen.inputs())


NO_FORWARD_RULE = "forward mode is silently zero"  # of every operator made with torch.library.custom_op


def gradients(fn: Any, arguments: tuple[Any, ...]) -> list[torch.Tensor | None]:
    """Return the gradients for one fixed incoming gradient, in float64, by plain torch.autograd.grad."""
    leaves, called = [], []
    for argument in arguments:
        value = argument
        if isinstance(argument, torch.Tensor) and (argument.is_floating_point() or argument.is_complex()):
            value = argument.detach().to(torch.complex128 if argument.is_complex() else torch.float64)
            value = value.requires_grad_(argument.requires_grad)
            if argument.requires_grad:
                leaves.append(value)
            value = value.clone()  # some work in place
        called.append(value)
    call = fn.apply if isinstance(fn, type) else fn
    results = call(*called)
    outputs = [r for r in (results if isinstance(results, tuple) else (results,)) if r.requires_grad]
    generator = torch.Generator().manual_seed(1)
    incoming = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in outputs]
    return list(torch.autograd.grad(outputs, leaves, incoming, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("name", WRONG)
def test_names_what_is_wrong(name):
    specimen, report = WRONG[name], report_on(name)
    check = report[specimen.check]
    assert (check.status, check.cause) == (specimen.status, specimen.cause)
    assert report.ok == (specimen.status == "warned")
    assert report.cause == (specimen.cause if specimen.status == "failed" else None)
    assert specimen.cause in next(iter(report.blocks())).text
    assert set(report.causes) <= set(CAUSES)


@pytest.mark.parametrize("name", [name for name, specimen in WRONG.items() if specimen.meant])
def test_the_oracle_agrees_that_it_is_wrong(name):
    specimen = WRONG[name]
    got, meant = (gradients(fn, specimen.inputs()) for fn in (specimen.fn, specimen.meant))
    assert any(not torch.allclose(a, b) for a, b in zip(got, meant))


@pytest.mark.parametrize("name", RIGHT)
def test_finds_nothing_in_what_is_right(name):
    report = report_on(name)
    assert report.ok, str(report)
    assert set(report.causes) <= ({NO_FORWARD_RULE} if "operator" in name else set()), str(report)
    assert report["backward"].status == "passed"
    assert report["gradcheck"].status == "passed"


@pytest.mark.parametrize("name", [name for name, specimen in RIGHT.items() if specimen.meant])
def test_the_oracle_agrees_that_it_is_right(name):
    specimen = RIGHT[name]
    got, meant = (gradients(fn, specimen.inputs()) for fn in (specimen.fn, specimen.meant))
    for one, other in zip(got, meant):
        assert torch.allclose(one, other)


def test_every_cause_is_reached_by_a_test():
    elsewhere = {
        "forward raises",
        "returns no tensor",
        "change goes unseen",
        "forward mode is silently zero",
        "wrong under autocast",
        "wrong when compiled",
        "does not compile",
    }
    reached = {specimen.cause for specimen in WRONG.values()} | elsewhere
    assert reached == set(CAUSES)
    assert all(specimen.check in CHECKS for specimen in WRONG.values())


# --- What each status means -------------------------------------------------------------------------------------------


def test_the_opening_puzzle():
    """A backward that passes a test on `.sum()` and is wrong for any other loss."""
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(IgnoresGradOutput.apply(x).sum(), x)
    assert torch.equal(grad, 2 * x)
    report = check_function(IgnoresGradOutput, x)
    assert report.cause == "ignores grad_output"
    assert report["gradcheck"].status == "failed"
    assert report["gradcheck"].sentence == "Follows from: ignores grad_output."
    assert report["gradcheck"].cause == ""


def test_what_is_not_supported_is_said_and_is_no_failure():
    report = check_function(SinCos, floats(3))
    assert report.ok
    assert (report["jvp"].status, report["vmap"].status) == ("not supported", "not supported")
    assert "jvp" in report["jvp"].sentence
    assert "setup_context" in report["vmap"].sentence


def test_every_mode_of_a_complete_function_is_passed():
    report = check_function(Sine, floats(2, 3))
    skipped = {check.name for check in report.checks if check.status != "passed"}
    assert skipped == {"compile", "opcheck"}
    assert "right wherever it was tried" in str(report)


def test_once_differentiable_refuses():
    check = check_function(RIGHT["once_differentiable"].fn, floats(3))["double backward"]
    assert check.status == "not supported"
    assert "once_differentiable" in check.sentence


def test_a_custom_operator_drops_tangents_silently():
    x = torch.ones(3)
    _, tangent = torch.func.jvp(lambda t: cube(t, 1.0), (x,), (x,))
    assert torch.equal(tangent, torch.zeros(3))  # it is 3
    check = check_function(cube, floats(3), 1.0)["jvp"]
    assert (check.status, check.cause) == ("warned", NO_FORWARD_RULE)


def test_an_exception_is_named_with_the_check_in_which_it_was_raised():
    def fragile(x):
        if not x.is_contiguous():
            raise RuntimeError("stride!")
        return x * 2

    report = check_function(fragile, floats(3, 2))
    assert report["non-contiguous"].status == "failed"
    assert "stride!" in report["non-contiguous"].evidence
    assert "raise RuntimeError" in report["non-contiguous"].evidence


def test_a_refusal_in_its_own_words_is_no_failure():
    def picky(x):
        if not x.is_contiguous():
            raise ValueError("x must be contiguous")
        return x * 2

    check = check_function(picky, floats(3, 2))["non-contiguous"]
    assert check.status == "not supported"
    assert "x must be contiguous" in check.sentence


def test_a_function_that_raises_at_once():
    report = check_function(lambda x: x @ x, floats(2, 3))
    assert report.cause == "forward raises"
    assert "mat1 and mat2" in report["forward"].evidence
    assert report["gradcheck"].status == "skipped"
    assert "`forward`" in report["gradcheck"].sentence


@pytest.mark.parametrize("result", [3.0, None, "text"])
def test_a_function_that_returns_no_tensor(result):
    assert check_function(lambda x: result, floats(2)).cause == "returns no tensor"


def test_a_change_through_data_goes_unseen():
    report = check_function(lambda x: x.data * x, floats(3), skip=["gradcheck"])
    assert report["saved tensors"].cause == "change goes unseen"


def test_only_the_inputs_that_require_grad_are_judged():
    x, weight = floats(2, 3), floats(2, 3, seed=1, requires_grad=False)
    assert check_function(NoneForWeight, x, weight).ok
    assert check_function(NoneForWeight, x, weight.requires_grad_()).cause == "None for an input that needs a gradient"


def test_float32_only():
    weight = torch.randn(3, 3)
    report = check_function(lambda x: x @ weight, floats(2, 3))
    assert report.ok
    assert "roughly" in report["gradcheck"].sentence
    assert report["double backward"].status == "skipped"
    assert any("float64 copies" in note and "dtype" in note for note in report.notes)


def test_large_inputs_are_judged_along_directions():
    x = floats(200, 100)
    right = check_function(Sine, x)
    assert right.ok
    assert "random directions" in right["gradcheck"].sentence

    wrong = check_function(WRONG["another wrong gradient"].fn, x)
    assert wrong["gradcheck"].cause == "wrong gradient"
    cut = check_function(WRONG["half of it detached"].fn, x)
    assert cut["double backward"].cause == "double backward is wrong"


def test_half_precision_inputs_are_judged_in_float64():
    assert check_function(Sine, floats(3, dtype=torch.bfloat16)).ok


def test_autocast_that_loses_the_gradient():
    x = torch.full((2, 4), 0.25, requires_grad=True)
    weight = torch.full((4, 2), 1.001)

    def distance(x, weight):
        return (x @ weight - 1).square()

    check = check_function(distance, x, weight)["autocast"]
    assert (check.status, check.cause) == ("warned", "wrong under autocast")


def test_a_straight_through_estimator_can_leave_gradcheck_out():
    class StraightThrough(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output

    x = floats(3)
    assert not check_function(StraightThrough, x).ok
    report = check_function(StraightThrough, x, skip=["gradcheck"])
    assert report.ok
    assert report["gradcheck"].sentence == "Left out, as you asked."
    # What it may still not do is ignore the incoming gradient.
    assert report["grad_output"].status == "passed"


def test_skip_takes_the_name_of_a_check():
    with pytest.raises(ValueError, match="'gradchek', which is no check that can be left out"):
        check_function(Sine, floats(3), skip=["gradchek"])
    assert check_function(Sine, floats(3), skip="vmap")["vmap"].status == "skipped"


def test_the_input_whose_strides_matter_is_named():
    """Batch norm on CPU reads a strided weight as if it were contiguous, in backward only (seen on torch 2.15)."""
    x, weight, bias = floats(5, 4), floats(4, seed=1), floats(4, seed=2)

    def batch_norm(x, weight, bias):
        return nn.functional.batch_norm(x, None, None, weight, bias, training=True)

    spread = torch.stack((weight.detach(), torch.zeros(4)), -1).select(-1, 0).requires_grad_()
    assert torch.equal(spread, weight)
    of_x, of_x_strided = (
        torch.autograd.grad(batch_norm(x, w, bias), x, torch.arange(20.0).view(5, 4))[0] for w in (weight, spread)
    )
    check = check_function(batch_norm, x, weight, bias)["non-contiguous"]
    assert (check.status == "passed") == torch.allclose(of_x, of_x_strided, atol=1e-4)
    if check.status != "passed":
        assert "`weight`" in check.sentence
        assert "weight: shape (4,), strides (2,)" in check.evidence


# --- The report -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRONG, *RIGHT])
def test_reports_fit_80_columns_and_are_json(name):
    report = report_on(name)
    assert max(map(len, str(report).splitlines())) <= 80
    for check in report.checks:
        for line in (*check.evidence.splitlines(), *check.fix.splitlines()):
            assert len(line) <= 76, line
    assert report._repr_html_().startswith("<div")
    assert [check["name"] for check in json.loads(json.dumps(report.to_dict()))["checks"]] == list(CHECKS)


def test_the_first_cause_is_told_and_the_others_are_counted():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x
            return x * x

        @staticmethod
        def backward(ctx, grad_output):
            return grad_output * ctx.x

    report = check_function(Twice, floats(2, 3))
    assert report.causes == ("input saved on ctx", "wrong factor")
    text = str(report)
    assert text.startswith("✗ Twice: input saved on ctx.")
    assert "1 more cause of failure" in text
    assert "`gradcheck`: wrong factor." in text


# --- Any matrix -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    error=st.sampled_from([0.0, 0.1, 1.0, -2.0]),
    seed=st.integers(0, 99),
)
def test_a_linear_function_is_right_exactly_where_its_matrix_is(size, error, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(size, generator=generator, dtype=torch.float64)
    claimed = matrix.clone()
    claimed[-1, -1] += error

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return matrix @ x

        @staticmethod
        def backward(ctx, grad_output):
            return claimed.mT @ grad_output

    x = torch.randn(size[1], generator=generator, dtype=torch.float64, requires_grad=True)
    report = check_function(Linear, x)
    assert report.ok == torch.equal(matrix, claimed)
    assert (report["gradcheck"].status == "passed") == report.ok
