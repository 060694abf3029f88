"""The tolerance of the law on values, for katas whose right answers add up in different orders."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.value import Value
from tests.dojo.exercise import kata_of

POWER_OF_TWO = torch.full((3,), 4.0)  # the reference is exact: no error of its own that would widen the tolerance


def _off_by(roundings):
    return lambda x: x * (1 + roundings * torch.finfo(x.dtype).eps)


@pytest.mark.parametrize(("allowed", "off_by", "status"), [(1, 1, "passed"), (1, 4, "failed"), (8, 4, "passed")])
def test_roundings_widen_the_tolerance(allowed, off_by, status):
    kata = kata_of(lambda x: x * 1, [Value(roundings=allowed)], POWER_OF_TWO)
    assert grade(kata, _off_by(off_by)).status == status


def test_they_hold_in_nested_results_too():
    kata = kata_of(lambda x: {"one": (x * 1, 2.0)}, [Value(roundings=8)], POWER_OF_TWO)
    assert grade(kata, lambda x: {"one": (_off_by(4)(x), 2.0)}).passed
    assert grade(kata, lambda x: {"one": (_off_by(16)(x), 2.0)}).law == "Value"


def test_they_hold_for_changed_arguments_too():
    def times_one(x):
        x *= 1

    def times_nearly_one(x):
        x *= 1 + 4 * torch.finfo(x.dtype).eps

    for roundings, status in ((1, "failed"), (8, "passed")):
        kata = kata_of(times_one, [Value(roundings=roundings)], POWER_OF_TWO, changes=(0,))
        assert grade(kata, times_nearly_one).status == status
