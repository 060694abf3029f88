"""Operators that a function registers: each law with an operator that keeps it and one that breaks it."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.custom_operator import OperatorChecks, OperatorCompiles, OperatorComputes, OperatorSaves
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

NAME = "blackbelt_tests::double"


def _sample():
    return torch.arange(1.0, 7.0).reshape(2, 3)


def _save(ctx, inputs, output):
    ctx.save_for_backward(output)


def _double(name, kernel=lambda x: 2 * x, fake=torch.empty_like, backward=lambda ctx, grad: 2 * grad, setup=None):
    operator = torch.library.custom_op(name, kernel, mutates_args=(), schema="(Tensor x) -> Tensor")
    if fake:
        operator.register_fake(fake)
    if backward:
        operator.register_autograd(backward, setup_context=setup)
    return operator


def _trial(function=_double):
    return Trial(kata_of(function, [], NAME), function, Case((NAME,)))


def _broken(law, function):
    with pytest.raises(LawBroken) as broken:
        law.check(_trial(function))
    return broken.value.sentence


def test_something_else_than_an_operator_of_that_name_is_refused():
    law = OperatorComputes(sample=_sample, oracle=lambda x: 2 * x)
    assert _broken(law, lambda _: lambda x: 2 * x) == f"It returns no operator named `{NAME}`"
    assert _broken(law, lambda _: _double("blackbelt_tests::other")) == f"It returns no operator named `{NAME}`"


def test_values_and_gradients():
    value = OperatorComputes(sample=_sample, oracle=lambda x: 2 * x)
    gradient = OperatorComputes(sample=_sample, oracle=lambda x: 2 * x, gradient=True)
    weighted = OperatorComputes(sample=_sample, oracle=lambda x: 2 * x, gradient=True, weighted=True)
    for law in (value, gradient, weighted):
        law.check(_trial())
    assert _broken(value, lambda name: _double(name, kernel=lambda x: 3 * x)) == "The operator's result is wrong"
    forgets = lambda name: _double(name, backward=lambda ctx, grad: torch.full_like(grad, 2))  # noqa: E731 - read in one line
    gradient.check(_trial(forgets))
    assert _broken(weighted, forgets) == "The operator's gradient is wrong"
    assert _broken(gradient, lambda name: _double(name, backward=None)) == "Backward through the operator fails"


def test_opcheck():
    law = OperatorChecks(sample=_sample, tests=("test_faketensor",))
    law.check(_trial())
    sentence = _broken(law, lambda name: _double(name, fake=None))
    assert sentence == "`torch.library.opcheck` refuses it (test_faketensor)"


def test_what_is_saved():
    law = OperatorSaves(sample=_sample, at_most=lambda _: 0)
    law.check(_trial())
    sentence = _broken(law, lambda name: _double(name, setup=_save))
    assert sentence == "It saves 24 B for backward; the budget is 0 B"


def test_compilation():
    law = OperatorCompiles(sample=_sample)
    law.check(_trial())
    assert _broken(law, lambda name: _double(name, fake=None)) == "It does not compile into one graph"
