"""The operation budget counts what PyTorch's own counter counts."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.laws import LawBroken
from blackbelt.dojo.laws.flops import Flops
from blackbelt.dojo.trial import Case, Trial
from tests.dojo.exercise import kata_of

MATRIX = torch.arange(12.0).reshape(3, 4)


def _trial(function):
    return Trial(kata_of(function, [], MATRIX), function, Case((MATRIX,)))


def test_a_budget_kept_and_one_broken():
    law = Flops(at_most=lambda _: 2 * 3 * 4 * 3)
    law.check(_trial(lambda x: x @ x.t()))
    with pytest.raises(LawBroken) as broken:
        law.check(_trial(lambda x: x @ x.t() @ x))
    assert broken.value.sentence == "It spends 144 floating-point operations; the budget is 72"
    assert (broken.value.expected, broken.value.got) == ("at most 72 operations", "144 operations")
