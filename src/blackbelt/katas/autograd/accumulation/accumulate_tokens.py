"""The mean over tokens, from micro-batches with padding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.requires_grad import RequiresGrad
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.autograd.accumulation._shared import ROUNDINGS, fixed, gradients

VOCABULARY = 4


def _model() -> nn.Module:
    return fixed(nn.Sequential(nn.Embedding(VOCABULARY, 2), nn.Linear(2, VOCABULARY)))


def _texts(
    lengths: Iterable[Iterable[int]], ignore: int = -100, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return one micro-batch per list of lengths: tokens and labels (rows, longest), padded with ``ignore``."""
    generator = torch.Generator().manual_seed(seed)
    first = 1 if ignore == 0 else 0  # a label that counts is never the one to ignore
    made = []
    for rows in map(list, lengths):
        longest = max([*rows, 1])
        tokens = torch.randint(0, VOCABULARY, (len(rows), longest), generator=generator)
        labels = torch.randint(first, VOCABULARY, (len(rows), longest), generator=generator)
        labels[torch.arange(longest) >= torch.tensor(rows)[:, None]] = ignore
        made.append((tokens, labels))
    return made


@kata(
    minutes=15,
    belt="orange",
    hints=(
        "`cross_entropy` divides by a number of its own. Which one, and what is it for a micro-batch of padding only?",
        "Ask for `reduction='sum'`: ignored labels add 0. The count is that of labels that are not `ignore_index`.",
        (
            "First count the labels of all micro-batches, `(labels != ignore_index).sum()`; no label at all is a "
            "ValueError. Then each micro-batch: the sum, divided by that count, `backward()`."
        ),
    ),
    cases=st.tuples(
        st.just(()).map(lambda _: _model()),
        st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=2), min_size=1, max_size=3).map(_texts),
        st.just(-100),
    ),
    edge_cases=lambda: {
        "no padding": (_model(), _texts([[2], [2]]), -100),
        "a short and a long text": (_model(), _texts([[1], [4]]), -100),
        "padding in a row": (_model(), _texts([[3, 1], [2, 2]]), -100),
        "two texts and one": (_model(), _texts([[2, 2], [2]]), -100),
        "a micro-batch of padding": (_model(), _texts([[2], [0]]), -100),
        "ignore 0": (_model(), _texts([[1, 3], [2]], ignore=0), 0),
        "nothing but padding": (_model(), _texts([[0], [0]]), -100),
    },
    laws=[Value(roundings=ROUNDINGS), RequiresGrad()],
    changes=(0,),
)
def accumulate_tokens(
    model: torch.nn.Module, micro_batches: list[tuple[torch.Tensor, torch.Tensor]], ignore_index: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mean over tokens, from micro-batches with padding.

    Each micro-batch is `(tokens, labels)`, two integer tensors of shape `(rows, length)`; `model(tokens)` gives logits
    of shape `(rows, length, vocabulary)`. Labels equal to `ignore_index` are padding and do not count. The loss is
    the cross-entropy averaged over **all labels that count, in all micro-batches**. Return it (a detached tensor) and
    its gradients by name. Raise ValueError where no label counts.

    ```python
    loss, gradients = accumulate_tokens(model, [(short, short_labels), (long, long_labels)], ignore_index=-100)
    ```
    """
    count = sum(int((labels != ignore_index).sum()) for _, labels in micro_batches)
    if count == 0:
        raise ValueError(f"every label is {ignore_index}, the one to ignore; a mean needs at least one that counts")
    model.zero_grad()
    total = torch.zeros(())
    for tokens, labels in micro_batches:
        logits = model(tokens).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels.flatten(), ignore_index=ignore_index, reduction="sum")
        (loss / count).backward()
        total = total + loss.detach() / count
    return total, {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


def _count(micro_batches, ignore_index):
    return sum(int((labels != ignore_index).sum()) for _, labels in micro_batches)


def _require_labels(micro_batches, ignore_index):
    if _count(micro_batches, ignore_index) == 0:
        raise ValueError


def _loss(model, tokens, labels, ignore_index, reduction="sum"):
    return cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), ignore_index=ignore_index, reduction=reduction)


def _add(model, losses):
    """Run backward of each loss as it comes, and return what the kata asks for."""
    total = torch.zeros(())
    for loss in losses:
        loss.backward()
        total = total + loss.detach()
    return total, gradients(model)


@accumulate_tokens.wrong(
    "It averages the micro-batches' means. A token in a short text counts more than one in a long text: this is the "
    "defect that training libraries repaired in October 2024."
)
def mean_of_means(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    number = len(micro_batches)
    return _add(model, (_loss(model, *micro, ignore_index, "mean") / number for micro in micro_batches))


@accumulate_tokens.wrong(
    "It divides by all positions, padding included. The gradient shrinks with every pad token; count the labels that "
    "are not `ignore_index`."
)
def counts_padding(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    count = sum(labels.numel() for _, labels in micro_batches)
    return _add(model, (_loss(model, *micro, ignore_index) / count for micro in micro_batches))


@accumulate_tokens.wrong(
    "It weights each micro-batch by its rows. That is exact for a loss per row; here the loss is per token, and rows "
    "have different numbers of them."
)
def weights_by_rows(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    rows = sum(len(labels) for _, labels in micro_batches)
    return _add(model, (_loss(model, *micro, ignore_index, "mean") * len(micro[1]) / rows for micro in micro_batches))


@accumulate_tokens.wrong(
    "It multiplies each mean by its count again. Where a micro-batch is all padding the mean is 0/0, and NaN times 0 "
    "is NaN: one such micro-batch, and the loss of the whole step is gone. Take the sum."
)
def undoes_the_mean(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    count = _count(micro_batches, ignore_index)
    return _add(
        model,
        (_loss(model, *micro, ignore_index, "mean") * _count([micro], ignore_index) / count for micro in micro_batches),
    )


@accumulate_tokens.wrong(
    "It adds up losses that still have their graphs. Every node of every micro-batch stays alive with the total; add "
    "`loss.detach()`."
)
def keeps_the_graphs(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    total = torch.zeros(())
    for micro in micro_batches:
        loss = _loss(model, *micro, ignore_index) / _count(micro_batches, ignore_index)
        loss.backward()
        total = total + loss
    return total, gradients(model)


@accumulate_tokens.wrong(
    "It counts with -100 whatever `ignore_index` says. The loss leaves out one label and the count another."
)
def counts_with_minus_100(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    count = _count(micro_batches, -100)
    return _add(model, (_loss(model, *micro, ignore_index) / count for micro in micro_batches))


@accumulate_tokens.wrong("It returns the sum and its gradient. Divide by the number of labels that count.")
def sums_only(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    return _add(model, (_loss(model, *micro, ignore_index) for micro in micro_batches))


@accumulate_tokens.wrong(
    "Where no label counts it divides 0 by 0, and the loss is NaN. Whoever averages the losses of an epoch loses them "
    "all: raise ValueError."
)
def lets_nan_through(model, micro_batches, ignore_index):
    count = torch.tensor(float(_count(micro_batches, ignore_index)))
    return _add(model, (_loss(model, *micro, ignore_index) / count for micro in micro_batches))


@accumulate_tokens.also_right
def leaves_out_padding_first(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    count = _count(micro_batches, ignore_index)

    def loss(tokens, labels):
        counts = labels != ignore_index
        return cross_entropy(model(tokens)[counts], labels[counts], reduction="sum") / count

    return _add(model, (loss(*micro) for micro in micro_batches))


@accumulate_tokens.also_right
def divides_at_the_end(model, micro_batches, ignore_index):
    _require_labels(micro_batches, ignore_index)
    count = _count(micro_batches, ignore_index)
    total, summed = _add(model, (_loss(model, *micro, ignore_index) for micro in micro_batches))
    return total / count, {name: gradient / count for name, gradient in summed.items()}
