"""The rungs below `checkpoint`: what each does, and the limit its docstring names."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from blackbelt.reference.checkpointing import (
    checkpoint,
    rerun_as_it_was,
    rerun_in_function,
    rerun_on_hooks,
    rerun_until_enough,
)
from tests.reference.checkpointing_zoo import Operators, leaf, plain, same

LADDER = [rerun_in_function, rerun_on_hooks, rerun_until_enough, rerun_as_it_was, checkpoint]


@pytest.mark.parametrize("rung", LADDER)
def test_every_rung_gives_the_gradients_of_a_plain_call(rung):
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), leaf(3, 4)
    found = []
    for call in (rung, plain):
        x.grad = None
        module.zero_grad()
        call(module, x).square().sum().backward()
        found.append([x.grad, *(p.grad.clone() for p in module.parameters())])
    assert same(*found)


@pytest.mark.parametrize(("rung", "num_addmm"), list(zip(LADDER, [2, 2, 1, 1, 1])))
def test_what_every_rung_reruns(rung, num_addmm):
    result = rung(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4)), leaf(3, 4))
    with Operators() as operators:
        result.sum().backward()
    assert operators.names.count("addmm") == num_addmm


@pytest.mark.parametrize(("rung", "is_right"), list(zip(LADDER, [False, False, False, True, True])))
def test_random_numbers_by_rung(rung, is_right):
    drawn = []

    def function(x):
        drawn.append(torch.rand(4))
        return (x * drawn[-1]).exp()

    rung(function, leaf(4)).sum().backward()
    assert torch.equal(*drawn) is is_right


@pytest.mark.parametrize(("rung", "needs_grad"), list(zip(LADDER, [False, True, True, True, True])))
def test_parameters_without_an_input_that_needs_grad_by_rung(rung, needs_grad):
    assert rung(nn.Linear(4, 4), torch.ones(2, 4)).requires_grad is needs_grad


@pytest.mark.parametrize(("rung", "is_held"), list(zip(LADDER[1:], [True, True, False, False])))
def test_inputs_of_inner_checkpoints_by_rung(rung, is_held):
    inner_input = []

    def outer(x):
        y = x.exp()
        inner_input.append(weakref.ref(y))
        return rung(torch.sin, y)

    result = checkpoint(outer, leaf(4))
    assert (inner_input[0]() is not None) is is_held
    result.sum().backward()
