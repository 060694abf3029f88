"""Laws of storage: what the result keeps alive, and which of its tensors share memory."""

from __future__ import annotations

import pytest
import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.storage import KeepsAlive, SameSharing
from tests.dojo.exercise import kata_of

MATRIX = torch.arange(512.0).view(64, 8)


def _tied(x):
    copy = x.clone()
    return {"a": copy, "b": copy, "c": x}


@pytest.mark.parametrize(
    ("law", "keeps", "breaks", "words"),
    [
        (
            KeepsAlive(at_most=lambda x: x[0].nbytes),
            lambda x: x[0].clone(),
            lambda x: x[0],
            "The result keeps 2 KiB alive; 32 B are enough",
        ),
        (
            SameSharing(),
            _tied,
            lambda x: {"a": x.clone(), "b": x.clone(), "c": x},
            "Its tensors do not share memory as they should",
        ),
        (
            SameSharing(),
            lambda x: [x.clone(), x.clone()],
            lambda x: [x, x],
            "Its tensors do not share memory as they should",
        ),
    ],
)
def test_law_breaks_where_it_should(law, keeps, breaks, words):
    kata = kata_of(keeps, [law], MATRIX)
    assert grade(kata, keeps).passed
    report = grade(kata, breaks)
    assert (report.status, report.sentence) == ("failed", words)
    assert report.expected != report.got


def test_storages_are_counted_once():
    kata = kata_of(_tied, [KeepsAlive(at_most=lambda x: 2 * x.nbytes)], MATRIX)
    assert grade(kata, _tied).passed


def test_tensors_without_elements_share_nothing():
    def empties(x):
        return [x[:0], x[:0].clone(), torch.empty(0)]

    assert grade(kata_of(lambda _: [torch.empty(0)] * 3, [SameSharing()], MATRIX), empties).passed
