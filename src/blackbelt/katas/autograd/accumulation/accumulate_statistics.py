"""The statistics that BatchNorm would have seen."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.value import Value
from blackbelt.dojo.strategies import numbers


def _parts(*sizes: int, channels: int = 2, around: float = 0.0, seed: int = 0) -> list[torch.Tensor]:
    return [numbers((size, channels), seed=seed + i) * (i + 1) + i + around for i, size in enumerate(sizes)]


@kata(
    minutes=25,
    belt="blue",
    hints=(
        "Two micro-batches, one all 0 and one all 2. What is the variance of each, and of both together?",
        "Besides what varies inside the parts there is what varies between their means. Keep rows, mean, Σ(x − mean)².",
        (
            "Merging (n, m, S) with a part's (k, p, T): δ = p − m, S ← S + T + δ²·n·k/(n + k), m ← m + δ·k/(n + k). "
            "The variance is S / n. E[x²] − E[x]² cancels where the mean is large."
        ),
    ),
    cases=st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(lambda sizes: _parts(*sizes))),
    edge_cases=lambda: {
        "one micro-batch": (_parts(4),),
        "even": (_parts(2, 2),),
        "uneven": (_parts(1, 3),),
        "three": (_parts(2, 2, 1),),
        "far from zero": (_parts(5, 3, around=100.0, seed=4),),
        "large ones": (_parts(*[4096] * 16, channels=8),),
    },
    laws=[
        Value(roundings=64, on=("one micro-batch", "even", "uneven", "three", "far from zero", "")),
        Allocates(at_most=lambda parts: 4 * parts[0].numel() * 4, on=("large ones",)),
    ],
)
def accumulate_statistics(micro_batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The statistics that BatchNorm would have seen.

    BatchNorm normalizes with the mean and the variance of the batch it is given, so accumulation changes what it
    computes. Given micro-batches of shape `(rows, channels)`, return per channel the mean and the variance over all
    rows of all micro-batches, as `BatchNorm1d` normalizes with (the biased variance: divided by the number of rows).
    Use no more memory than a few micro-batches, and stay right where the mean is far from zero.

    ```python
    mean, variance = accumulate_statistics([x[:1], x[1:]])  # x.mean(0), x.var(0, correction=0)
    ```
    """
    rows = len(micro_batches[0])
    mean = micro_batches[0].mean(0)
    squares = (micro_batches[0] - mean).square().sum(0)
    for part in micro_batches[1:]:
        own = part.mean(0)
        delta, share = own - mean, len(part) / (rows + len(part))
        squares = squares + (part - own).square().sum(0) + delta.square() * (rows * share)
        mean = mean + delta * share
        rows += len(part)
    return mean, squares / rows


def _mean(micro_batches):
    return sum(part.sum(0) for part in micro_batches) / sum(len(part) for part in micro_batches)


@accumulate_statistics.wrong(
    "It averages the micro-batches' means and variances, each with the same weight. A row of a small micro-batch then "
    "counts more, and what varies from one mean to the next is missing."
)
def averages_of_parts(micro_batches):
    number = len(micro_batches)
    return (
        sum(part.mean(0) for part in micro_batches) / number,
        sum(part.var(0, correction=0) for part in micro_batches) / number,
    )


@accumulate_statistics.wrong(
    "It weights the variances by rows and leaves out what varies between the means. The variance comes out too small: "
    "add each mean's squared distance from the common mean."
)
def variance_inside_only(micro_batches):
    rows = sum(len(part) for part in micro_batches)
    return _mean(micro_batches), sum(part.var(0, correction=0) * len(part) for part in micro_batches) / rows


@accumulate_statistics.wrong(
    "It takes E[x²] − E[x]². Far from zero those are two large, nearly equal numbers, and their difference is rounding "
    "error. Sum squared distances from a mean instead."
)
def mean_of_squares(micro_batches):
    rows = sum(len(part) for part in micro_batches)
    mean = _mean(micro_batches)
    return mean, sum(part.square().sum(0) for part in micro_batches) / rows - mean.square()


@accumulate_statistics.wrong(
    "It divides by rows − 1. BatchNorm normalizes with the biased variance; only its running variance is unbiased."
)
def unbiased(micro_batches):
    mean, rows = _mean(micro_batches), sum(len(part) for part in micro_batches)
    return mean, sum((part - mean).square().sum(0) for part in micro_batches) / (rows - 1)


@accumulate_statistics.wrong(
    "It is a running average with momentum 0.1, as BatchNorm keeps for evaluation. That is no batch's statistic: it "
    "depends on the order, and starts from 0 and 1."
)
def running_average(micro_batches):
    mean, variance = torch.zeros_like(micro_batches[0][0]), torch.ones_like(micro_batches[0][0])
    for part in micro_batches:
        mean = 0.9 * mean + 0.1 * part.mean(0)
        variance = 0.9 * variance + 0.1 * part.var(0, correction=0)
    return mean, variance


@accumulate_statistics.wrong("It puts the large batch together again. That is the batch that did not fit.")
def concatenates(micro_batches):
    whole = torch.cat(micro_batches)
    return whole.mean(0), whole.var(0, correction=0)


@accumulate_statistics.also_right
def in_two_passes(micro_batches):
    mean, rows = _mean(micro_batches), sum(len(part) for part in micro_batches)
    return mean, sum((part - mean).square().sum(0) for part in micro_batches) / rows


@accumulate_statistics.also_right
def inside_and_between(micro_batches):
    mean, rows = _mean(micro_batches), sum(len(part) for part in micro_batches)
    inside = sum(part.var(0, correction=0) * len(part) for part in micro_batches)
    between = sum((part.mean(0) - mean).square() * len(part) for part in micro_batches)
    return mean, (inside + between) / rows
