"""The law on the graph of a result: too much graph and too little are two sentences."""

from __future__ import annotations

import torch

from blackbelt.dojo.grader import grade
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from tests.dojo.exercise import kata_of


def _kata(reference):
    return kata_of(reference, [RequiresGrad()], torch.ones(3, requires_grad=True))


def test_a_result_with_a_graph_where_none_belongs():
    kata = _kata(lambda x: (2 * x).detach())
    assert grade(kata, lambda x: x.detach() * 2).passed
    report = grade(kata, lambda x: 2 * x)
    assert (report.status, report.sentence) == ("failed", "The result still carries a graph")
    assert report.got == "MulBackward0"


def test_a_result_without_the_graph_it_needs():
    kata = _kata(lambda x: 2 * x)
    assert grade(kata, lambda x: x + x).passed
    report = grade(kata, lambda x: (2 * x).detach())
    assert (report.status, report.sentence) == (
        "failed",
        "The result carries no graph: no gradient flows back from it",
    )


def test_a_leaf_is_named_as_one():
    report = grade(_kata(lambda x: (2 * x).detach()), lambda x: (2 * x).detach().requires_grad_())
    assert report.got == "a leaf that requires grad"


def test_each_tensor_of_several_counts():
    kata = _kata(lambda x: (2 * x, x.detach()))
    report = grade(kata, lambda x: (2 * x, 1 * x))
    assert report.sentence == "The result still carries a graph"
