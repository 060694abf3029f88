"""Every law passes an answer that keeps it and breaks on one that does not, with words that say what happened."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.compilation import CompilesWhole
from blackbelt.dojo.laws.gradients import DoubleBackward, Gradcheck
from blackbelt.dojo.laws.operators import Calls, Forbids
from blackbelt.dojo.laws.saved import SavesForBackward
from blackbelt.dojo.laws.sharing import OwnsMemory, SharesMemory, Strides
from blackbelt.dojo.laws.speed import FasterThan
from blackbelt.dojo.laws.synchronization import Synchronizes
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.laws.vmap import Vmap
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

MATRIX = torch.arange(1.0, 13.0).reshape(3, 4)


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


class _OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * 2 * ctx.saved_tensors[0]).detach()


def _loop_sum(x):
    total = torch.zeros(())
    for row in x:
        for value in row:
            total = total + value
    return total


def _branch(x):
    return x * 2 if x.sum() > 0 else x * 2 + 0


LAWS = {
    "SharesMemory": (SharesMemory(), torch.t, lambda x: x.t().clone(), "The result is a copy"),
    "OwnsMemory": (OwnsMemory(), lambda x: x.t().clone(), torch.t, "The result is a view of the input"),
    "Strides": (Strides(), torch.t, lambda x: x.t().contiguous(), "the strides are not"),
    "Allocates": (
        Allocates(at_most=lambda x: x.nbytes, slack=16),
        lambda x: x * 2,
        lambda x: x * 4 / 2,
        "the budget is 48 B",
    ),
    "Forbids operator": (
        Forbids({"aten::mm": "multiply and sum instead"}),
        lambda x: (x[:, None] * x[None]).sum(-1),
        lambda x: x @ x.t(),
        "`aten::mm`, which this kata forbids: multiply and sum instead",
    ),
    "Forbids function": (
        Forbids({"torch.Tensor.repeat": "expand"}),
        lambda x: x.expand(2, 3, 4),
        lambda x: x.repeat(2, 1, 1),
        "`torch.Tensor.repeat`, which this kata forbids: expand",
    ),
    "Calls": (Calls(at_most=3), torch.sum, _loop_sum, "3 are enough"),
    "Calls each": (
        Calls(each={"aten::mul": 1}),
        lambda x: x * 4,
        lambda x: x * 2 * 2,
        "`aten::mul` 2 times; the limit is 1",
    ),
    "Synchronizes": (
        Synchronizes(),
        lambda x: x + x.sum(),
        lambda x: x + x.sum().item(),
        "waits for the device 1 times",
    ),
    "Gradcheck": (Gradcheck(), torch.square, _HalfGradient.apply, "does not agree with finite differences"),
    "DoubleBackward": (DoubleBackward(), torch.square, _OnceOnly.apply, "second derivative"),
    "Vmap": (Vmap(), torch.square, lambda x: torch.tensor(x.tolist()).square(), "does not run under `torch.vmap`"),
    "CompilesWhole": (CompilesWhole(), lambda x: x * 2, _branch, "does not compile into one graph"),
    "FasterThan": (
        FasterThan(_loop_sum, ratio=2),
        torch.sum,
        lambda x: _loop_sum(x) + 0 * _loop_sum(x),
        "2× was asked for",
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_law(name):
    law, keeps, breaks, words = LAWS[name]
    kata = kata_of(keeps, [law], MATRIX)
    assert grade(kata, keeps).passed
    report = grade(kata, breaks)
    assert report.status == "failed"
    assert report.law == type(law).__name__
    assert words in report.sentence
    assert report.why


def test_saved_bytes_do_not_count_the_inputs_and_count_a_storage_once():
    leaf = MATRIX.clone().requires_grad_()
    law = SavesForBackward(at_most=lambda x: x.nbytes)
    kata = kata_of(lambda x: x.square().exp(), [law], leaf)
    assert grade(kata, lambda x: (x * x).exp()).passed  # saves x (an input) and the result of exp
    report = grade(kata, lambda x: x.square().exp() * x.sigmoid() / x.sigmoid())
    assert report.law == "SavesForBackward"
    assert "the budget is 48 B" in report.sentence


def test_counting_saved_bytes_keeps_no_graph_alive():
    class Marker:
        pass

    class SavesItsOutput(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            ctx.marker = Marker()
            markers.append(weakref.ref(ctx.marker))
            return y

    markers = []
    kata = kata_of(SavesItsOutput.apply, [], MATRIX)
    assert Trial(kata, SavesItsOutput.apply, Case((MATRIX.clone().requires_grad_(),))).saved_bytes == MATRIX.nbytes
    gc.collect()
    assert markers[0]() is None


def test_a_law_limited_to_an_edge_case_is_silent_elsewhere():
    kata = kata_of(torch.t, [SharesMemory(on=("another case",))], MATRIX)
    assert grade(kata, lambda x: x.t().clone()).passed


class TestValue:
    def test_error_may_be_twice_that_of_the_same_precision(self):
        rows = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
        kata = kata_of(lambda x: x.sum(), [Value()], rows)
        assert grade(kata, lambda x: x.flatten().sum()).passed
        report = grade(kata, lambda x: x.half().sum().float())
        assert "is off by" in report.sentence

    def test_a_reference_without_error_still_allows_one_rounding(self):
        kata = kata_of(lambda x: x * 4, [Value()], MATRIX)
        assert grade(kata, lambda x: x * 3 + x).passed

    def test_nan_and_infinity_must_stand_in_the_same_places(self):
        values = torch.tensor([1.0, float("inf"), float("nan")])
        kata = kata_of(lambda x: x, [Value()], values)
        assert grade(kata, torch.clone).passed
        assert "other NaN or infinite" in grade(kata, lambda x: x.nan_to_num()).sentence
        assert "other NaN or infinite" in grade(kata, lambda x: -x).sentence

    def test_integers_and_booleans_are_exact(self):
        kata = kata_of(lambda x: (x > 2, x.long(), int(x.sum())), [Value()], MATRIX)
        assert grade(kata, lambda x: (x > 2, x.long(), int(x.sum()))).passed
        assert "dtype torch.int32" in grade(kata, lambda x: (x > 2, x.int(), int(x.sum()))).sentence
        assert "is a bool" in grade(kata, lambda x: (x > 2, x.long(), True)).sentence

    def test_plain_structures(self):
        kata = kata_of(lambda x: {"shape": tuple(x.shape), "mean": x.mean().item()}, [Value()], MATRIX)
        assert grade(kata, lambda x: {"shape": x.shape, "mean": x.mean().item()}).passed
        assert "other keys" in grade(kata, lambda x: {"shape": x.shape}).sentence
        assert "has 1 items" in grade(kata, lambda _: {"shape": (3,), "mean": 6.5}).sentence
        assert "a number was expected" in grade(kata, lambda _: {"shape": (3, 4), "mean": "6.5"}).sentence

    def test_module_state_is_compared(self):
        def zero_the_weight(module):
            module.weight.data.zero_()

        kata = kata_of(zero_the_weight, [Value()], torch.nn.Linear(2, 2), changes=(0,))
        assert grade(kata, zero_the_weight).passed
        assert grade(kata, lambda _: None).law == "Value"
