"""explain_accumulation: the errors, the reasons where even exact accumulation differs, and that it changes nothing."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections import UserDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from blackbelt.autograd._accumulation_batches import CannotJoinError, join
from blackbelt.autograd.accumulation import accumulate, explain_accumulation
from tests.autograd.accumulation_losses import (
    Language,
    split,
    square_loss,
    token_loss,
    tokens_and_labels,
)


def test_explaining_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randn(8, 2)
    model[0].weight.grad = torch.ones(4, 3)

    def loss(model, micro_batch):
        x, y = micro_batch
        x.mul_(2)  # a loss that changes its micro-batch
        random.random()
        np.random.rand()
        return (model(x) - y).square().sum(), len(x)

    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    before, inputs = copy.deepcopy(model.state_dict()), x.clone()
    explain_accumulation(model, split((x, y), [3, 5]), loss)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert torch.equal(x, inputs)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(4, 3))
    assert all(p.grad is None for p in list(model.parameters())[1:])


def conv(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), *layers, nn.Linear(8, 2))


def noisy(model, micro_batch):
    x, y = micro_batch
    return square_loss(model, (x + torch.randn_like(x), y))


def contrastive(model, micro_batch):
    z = model(micro_batch[0])
    return functional.cross_entropy(z @ z.T, torch.arange(len(z)), reduction="sum"), len(z)


def mean_returned(model, micro_batch):
    total, count = square_loss(model, micro_batch)
    return total / count, count


def batches_counted(model, micro_batch):
    return square_loss(model, micro_batch)[0], 1


REASONS = {
    "nothing": (conv(nn.Tanh()), square_loss, None),
    "BatchNorm": (conv(nn.BatchNorm1d(8)), square_loss, ["BatchNorm normalizes by the statistics .*: `1`"]),
    "BatchNorm in eval mode": (conv(nn.BatchNorm1d(8).eval()), square_loss, None),
    "dropout": (conv(nn.Dropout(0.3)), square_loss, ["Dropout draws other masks .*: `1`"]),
    "both": (conv(nn.BatchNorm1d(8), nn.Dropout(0.3)), square_loss, ["BatchNorm .*`1`", "Dropout .*`2`"]),
    "dropout by hand": (conv(), noisy, ["draws random numbers"]),
    "a mean": (conv(), mean_returned, ["Your loss is a mean, not a sum"]),
    "a count of batches": (conv(), batches_counted, [r"The counts do not add up: 3 in the micro-batches, 1 in the"]),
    "coupled": (conv(), contrastive, ["depends on the others in its batch"]),
    "coupled, with a BatchNorm that nobody uses": (
        nn.Sequential(conv(), nn.BatchNorm1d(2)), lambda m, b: contrastive(m[0], b), ["depends on the others"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_names_the_reason_when_even_exact_accumulation_differs(name):
    model, loss, reasons = REASONS[name]
    x, y = torch.randn(12, 3), torch.randn(12, 2)
    report = explain_accumulation(model, split((x, y), [3, 4, 5]), loss)
    assert report.holds == (reasons is None)
    assert len(report.reasons) == len(reasons or ())
    for reason, words in zip(report.reasons, reasons or ()):
        assert re.search(words, reason)
    if (reasons and "Norm" in reasons[0]) or name == "dropout":
        assert report.eval_difference < 1e-12
    text = str(report)
    assert ("✓ Exact accumulation gives" in text) == (reasons is None)
    assert max(map(len, text.splitlines())) <= 80


def test_a_zero_gradient_is_no_relative_error():
    """A bias before BatchNorm has gradient 0: relative to itself its rounding would be enormous."""
    model = conv(nn.BatchNorm1d(8))
    x, y = torch.randn(12, 3), torch.randn(12, 2)
    report = explain_accumulation(model, split((x, y), [6, 6]), square_loss)
    bias = next(row for row in report.parameters if row.name == "0.bias")
    assert bias.large_batch < 1e-6


def test_equal_counts_make_the_mean_of_means_right():
    x, y = torch.randn(12, 3), torch.randn(12, 2)
    report = explain_accumulation(conv(), split((x, y), [4, 4, 4]), square_loss)
    assert report.naive_is_right
    assert report.overall.naive < 1e-6
    assert "The mean of means is the same here" in str(report)


def test_an_empty_micro_batch_makes_the_mean_of_means_nan():
    batch = tokens_and_labels(6)
    batch[1][:2] = -100
    report = explain_accumulation(Language(), split(batch, [2, 4]), token_loss)
    assert report.holds
    assert math.isnan(report.naive_mean_loss)
    assert report.weights[0] == math.inf
    assert "micro-batch 1 is empty" in str(report)


def test_micro_batches_that_do_not_concatenate_are_one_graph():
    (a, b), (c, d) = tokens_and_labels(3), tokens_and_labels(4, seed=1)
    batches = [(a[:, :2], b[:, :2]), (c, d)]
    report = explain_accumulation(Language(), batches, token_loss)
    assert (report.large_batch, report.holds) == ("one graph", True)
    assert "do not concatenate" in str(report)
    padded = (
        torch.cat([functional.pad(a[:, :2], (0, 3)), c]),
        torch.cat([functional.pad(b[:, :2], (0, 3), value=-100), d]),
    )
    given = explain_accumulation(Language(), batches, token_loss, joined=padded)
    assert (given.large_batch, given.holds) == ("given", True)
    assert given.overall.naive == pytest.approx(report.overall.naive, rel=1e-4)


def test_a_loss_that_does_not_run_in_float64_is_compared_with_the_large_batch():
    def loss(model, micro_batch):
        x, y = micro_batch
        return (model(x.float()) - y).square().sum(), len(x)

    x, y = torch.randn(12, 3), torch.randn(12, 2)
    report = explain_accumulation(conv(), split((x, y), [3, 9]), loss)
    assert (report.holds, report.reference) == (None, "large batch")
    assert report.overall.large_batch == 0
    assert report.overall.exact < 1e-6 < report.overall.naive
    assert "No float64 reference" in str(report)


def test_a_double_precision_model_has_no_wider_reference():
    batch = tokens_and_labels(16)
    report = explain_accumulation(Language().double(), split(batch, [1, 0, 5, 10]), token_loss)
    assert report.holds
    assert report.overall.large_batch == 0
    assert report.overall.exact < 1e-14


def test_a_difference_in_rounding_alone_is_called_that():
    """The loss of a micro-batch is off by 1e-5, as by a rounding: in float32, not in float64."""

    def loss(model, micro_batch):
        total, count = square_loss(model, micro_batch)
        is_off = total.dtype == torch.float32 and count < 24
        return total * (1 + 1e-5) if is_off else total, count

    x, y = torch.randn(12, 3), torch.randn(12, 2)
    report = explain_accumulation(conv(), split((x, y), [3, 9]), loss)
    assert report.holds is None
    assert report.reasons[0].startswith("Rounding: in float64 they agree.")
    assert "is the large batch in float64; in its own precision" in " ".join(str(report).split())


def test_a_half_precision_model_is_judged_by_its_own_precision():
    batch = tokens_and_labels(16)
    report = explain_accumulation(Language().bfloat16(), split(batch, [1, 5, 10]), token_loss)
    assert report.holds
    assert 1e-4 < report.overall.exact <= 2 * report.overall.large_batch + torch.finfo(torch.bfloat16).eps


class Pair(NamedTuple):
    x: torch.Tensor
    y: Any


def test_joining():
    one, two = torch.ones(2, 3), torch.zeros(1, 3)
    joined = join([{"x": (one, Pair(one, 3))}, {"x": (two, Pair(two, 3))}])
    assert torch.equal(joined["x"][0], torch.cat([one, two]))
    assert isinstance(joined["x"][1], Pair)
    assert joined["x"][1].y == 3
    assert isinstance(join([UserDict(x=one), UserDict(x=two)]), UserDict)
    assert join([torch.tensor(3), torch.tensor(3)]).item() == 3
    for parts in (
        [one, torch.ones(2, 4)], [one, one.long()], [one, torch.ones(3)], [one, 3], [{"x": one}, {"y": one}],
        [[one], [one, one]], [[one], (one,)], [torch.tensor(3), torch.tensor(4)], ["a", "b"],
    ):  # fmt: skip
        with pytest.raises(CannotJoinError):
            join(parts)


def test_the_report_in_text_and_as_a_dict():
    batch = tokens_and_labels(6)
    report = accumulate(Language(), split(batch, [1, 2, 3]), token_loss, scaler=torch.amp.GradScaler("cpu"))
    text = str(report)
    assert "has the gradient of the mean of" in text
    assert "`scaler.unscale_(optimizer)` comes before" in text
    assert max(map(len, text.splitlines())) <= 80
    plain = report.to_dict()
    assert plain["sums"] == [float(loss) for loss in report.sums]
    assert json.loads(json.dumps(plain))["total_count"] == report.total_count
    assert "<table" in report._repr_html_()
    many = accumulate(Language(), split(tokens_and_labels(40, ignored=0), [1] * 40), token_loss)
    assert "40 micro-batches, the first 12" in str(many)
    explained = explain_accumulation(Language(), split(tokens_and_labels(40), [1] * 20 + [5] * 4), token_loss)
    assert "the 8 of 24 farthest from it" in str(explained).replace("\n", " ")
    assert max(map(len, str(explained).splitlines())) <= 80
