"""Laws of in-place changes: each breaks where it should, with its own words, and holds for the right way."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.in_place import InPlaceGradient, InPlaceSaves, KeepsNoHistory, KeepsStorage, MovesVersion
from tests.dojo.exercise import make_kata


def _double(tensors):
    with torch.no_grad():
        tensors.mul_(2)


def _resize(x):
    x.set_(torch.ones(x.shape))


def _with_history(x):
    x.mul_(torch.ones((), requires_grad=True))


def _flagged(x):
    x.requires_grad_()


def _past_the_counter(x):
    x.data.mul_(2)


def _doubled(x):
    return x.mul_(2)


def _gradient_lost(x):
    x.data.mul_(2)
    return x


def _masked(x):
    return x.mul_(torch.full(x.shape, 2.0, dtype=x.dtype))


@pytest.mark.parametrize(
    ("law", "keeps", "breaks", "words"),
    [
        (KeepsStorage(), _double, _resize, "It put a new tensor in the place of the old one"),
        (KeepsNoHistory(), _double, _with_history, "It wrote history into its argument"),
        (KeepsNoHistory(), _double, _flagged, "It changed `requires_grad`"),
        (MovesVersion(), _double, _past_the_counter, "It wrote past the version counter"),
        (InPlaceGradient(), _doubled, _gradient_lost, "The gradient through the change is wrong"),
        (
            InPlaceSaves(at_most=lambda _: 0, on=("small",)),
            _doubled,
            _masked,
            "It saves 24 B for backward; the budget is 0 B",
        ),
    ],
)
def test_law_breaks_where_it_should(law, keeps, breaks, words):
    kata = make_kata([law], changes=(0,))
    kata.reference = keeps
    kata.wrongs.clear()
    assert grade(kata, keeps).passed
    report = grade(kata, breaks)
    assert (report.status, report.sentence) == ("failed", words)
    assert report.expected != report.got
