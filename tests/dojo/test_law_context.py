"""Tensors belong into `save_for_backward`, and a Function is one node."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.context import NothingOnContext, OneNode
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

X = torch.ones(3, requires_grad=True)


def _trial(function, x=X):
    return Trial(kata_of(function, [], x), function, Case((x,)))


def _function(keep, backward):
    class Mine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            keep(ctx, x)
            return x * x

    Mine.backward = staticmethod(backward)
    return Mine.apply


def _save(ctx, x):
    ctx.save_for_backward(x)
    ctx.factor, ctx.sizes = 2.0, [3]


def _keep(ctx, x):
    ctx.cache = {"inputs": [x]}


saved = _function(_save, lambda ctx, grad: grad * ctx.factor * ctx.saved_tensors[0])
kept = _function(_keep, lambda ctx, grad: grad * 2 * ctx.cache["inputs"][0])


def test_numbers_may_stand_on_the_context():
    NothingOnContext().check(_trial(saved))
    NothingOnContext().check(_trial(lambda x: (x * x).sum()))  # PyTorch's own nodes


@pytest.mark.parametrize("function", [kept, lambda x: (2 * kept(x)).sum()], ids=["at the end", "deep in the graph"])
def test_a_tensor_on_the_context_is_found(function):
    with pytest.raises(LawBroken) as broken:
        NothingOnContext().check(_trial(function))
    assert broken.value.sentence == "It keeps a tensor as the attribute `ctx.cache`"
    assert (broken.value.expected, broken.value.got) == ("ctx.save_for_backward(…)", "ctx.cache")


def test_a_tensor_in_the_closure_is_found_under_a_decorator():
    def square(x):
        def backward(ctx, grad):
            return grad * 2 * x

        once = torch.autograd.function.once_differentiable(backward)
        return _function(lambda ctx, x: None, once)(x)

    with pytest.raises(LawBroken) as broken:
        NothingOnContext().check(_trial(square))
    assert broken.value.sentence == "Its backward reaches a tensor, `x`, from outside"


def test_one_node():
    OneNode().check(_trial(saved))
    with pytest.raises(LawBroken, match="The result was not made by a custom function"):
        OneNode().check(_trial(lambda x: x * x))
    with pytest.raises(LawBroken, match="Part of it is recorded before the custom function"):
        OneNode().check(_trial(lambda x: saved(x.exp())))
