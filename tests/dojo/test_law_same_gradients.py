"""The law on gradients of a result: against the reference's, for tensors and for parameters of modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.same_gradients import SameGradients
from tests.dojo.exercise import kata_of


def _leaf(*values):
    return torch.tensor(values, requires_grad=True)


def test_another_formula_of_the_same_function_keeps_it():
    kata = kata_of(lambda x: x.square(), [SameGradients()], _leaf(1.0, -2.0))
    assert grade(kata, lambda x: x * x).passed


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x * x.detach(), "The gradient that reaches argument 0 is wrong"),
        (lambda x: x.detach().square(), "No gradient reaches argument 0"),
        (lambda x: x.detach().requires_grad_().square(), "No gradient reaches argument 0"),
        (lambda x: x * x + 0 * (x - x).sqrt(), "The gradient that reaches argument 0 is wrong"),
    ],
    ids=["half of it", "none", "ends in a new leaf", "NaN"],
)
def test_right_values_with_wrong_gradients_break_it(answer, words):
    report = grade(kata_of(lambda x: x.square(), [SameGradients()], _leaf(1.0, -2.0)), answer)
    assert (report.status, report.law, report.sentence) == ("failed", "SameGradients", words)
    assert report.expected != report.got


def test_every_element_of_the_result_counts():
    kata = kata_of(lambda x: 1 * x, [SameGradients()], _leaf(1.0, 2.0))
    report = grade(kata, lambda x: x.flip(0).detach() + x.flip(0) - x.flip(0).detach())
    assert report.sentence == "The gradient that reaches argument 0 is wrong", "a sum alone would not tell"


def test_parameters_of_modules_are_leaves_and_frozen_ones_are_not():
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    kata = kata_of(lambda model, x: model(x), [SameGradients()], model, torch.ones(3, 2))
    assert grade(kata, lambda model, x: model[1](model[0](x))).passed
    report = grade(kata, lambda model, x: torch.func.functional_call(model, {"1.weight": model[1].weight.detach()}, x))
    assert report.sentence == "No gradient reaches parameter `1.weight` of argument 0"


def test_tensors_of_a_list_are_named_by_number():
    kata = kata_of(lambda xs: xs[0] * xs[1], [SameGradients()], [_leaf(1.0), _leaf(3.0)])
    report = grade(kata, lambda xs: xs[0] * xs[1].detach())
    assert report.sentence == "No gradient reaches tensor 1 of argument 0"


def test_no_gradient_is_a_gradient_of_zero():
    kata = kata_of(lambda x, y: x + 0 * y, [SameGradients()], _leaf(1.0), _leaf(1.0))
    assert grade(kata, lambda x, y: x + 0 * y.detach()).passed
