"""The law on backward passes: whoever asks for one, it counts; a batched one counts once."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.passes import BackwardPasses
from tests.dojo.exercise import kata_of


def _with_grad(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(x.square().sum(), x)[0]


def _with_backward(x):
    x = x.detach().requires_grad_()
    x.square().sum().backward()
    return x.grad


def _with_functions(x):
    return torch.func.grad(lambda x: x.square().sum())(x)


def _batched(x):
    return torch.func.jacrev(torch.square)(x).diagonal()


def _forward(x):
    return 2 * x


def _twice(x):
    return torch.func.grad(lambda x: _with_functions(x).sum())(x) * x


@pytest.mark.parametrize("one", [_with_grad, _with_backward, _with_functions, _batched])
def test_one_pass_counts_one_however_it_is_asked_for(one):
    x = torch.arange(3.0)
    assert grade(kata_of(_forward, [BackwardPasses(at_most=lambda _: 1)], x), one).passed
    report = grade(kata_of(_forward, [BackwardPasses(at_most=lambda _: 0)], x), one)
    assert (report.status, report.sentence) == ("failed", "It runs 1 backward pass; 0 are enough")


def test_a_second_pass_through_the_first_counts_two():
    report = grade(kata_of(_forward, [BackwardPasses(at_most=lambda _: 1)], torch.arange(3.0)), _twice)
    assert report.sentence == "It runs 2 backward passes; 1 is enough"
    assert report.expected == "at most 1"


def test_the_limit_may_depend_on_the_arguments():
    law = BackwardPasses(at_most=len)
    assert grade(kata_of(_forward, [law], torch.arange(2.0)), _twice).passed
    assert grade(kata_of(_forward, [law], torch.arange(1.0)), _twice).status == "failed"
