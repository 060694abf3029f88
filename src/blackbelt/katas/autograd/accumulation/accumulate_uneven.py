"""The gradient of the large batch, from micro-batches of any size."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.allocation import Allocates
from blackbelt.dojo.laws.operators import Forbids
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.autograd.accumulation._shared import (
    ROUNDINGS,
    MicroBatch,
    add_gradients,
    fixed,
    gradients,
    linear,
    regression,
)


def _budget(model: nn.Module, micro_batches: list[MicroBatch]) -> int:
    """Bytes of six activations of the largest micro-batch, and of the gradients twice."""
    rows = max(len(inputs) for inputs, _ in micro_batches)
    width = max(parameter.shape[0] for parameter in model.parameters())
    return 4 * (6 * rows * width + 2 * sum(parameter.numel() for parameter in model.parameters()))


@kata(
    minutes=10,
    belt="yellow",
    hints=(
        "Write down the large batch's loss as one fraction. What is in the denominator, and when do you know it?",
        "`.grad` adds up by itself. A sum of sums is the sum, whatever the sizes; a mean of means is not the mean.",
        (
            "Count all rows first. Then, for each micro-batch: the *sum* of its squared errors, divided by that count, "
            "`backward()`. One micro-batch's graph is alive at a time."
        ),
    ),
    cases=st.tuples(
        st.just(()).map(lambda _: linear()), st.lists(st.integers(1, 4), min_size=1, max_size=4).map(regression)
    ),
    edge_cases=lambda: {
        "one micro-batch": (linear(), regression([3])),
        "even": (linear(), regression([2, 2])),
        "uneven": (linear(), regression([1, 3])),
        "a short last one": (linear(), regression([4, 4, 1])),
        "a wide model": (
            fixed(nn.Sequential(nn.Linear(2, 256), nn.Tanh(), nn.Linear(256, 1))),
            regression([32] * 16),
        ),
    },
    laws=[
        Value(roundings=ROUNDINGS, on=("one micro-batch", "even", "uneven", "a short last one", "")),
        Forbids({"torch.cat": "the large batch is what does not fit"}, on=("uneven",)),
        Allocates(at_most=_budget, on=("a wide model",)),
    ],
    changes=(0,),
)
def accumulate_uneven(
    model: torch.nn.Module, micro_batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """The gradient of the large batch, from micro-batches of any size.

    Each micro-batch is `(inputs, targets)`, of shapes `(rows, width)` and `(rows, 1)`; the number of rows differs. The
    loss is the mean squared error over **all rows of all micro-batches**. Return its gradient for every parameter, by
    name. Never hold more than one micro-batch's graph: that is what accumulation is for.

    ```python
    accumulate_uneven(model, [(x[:1], y[:1]), (x[1:], y[1:])])  # as from ((model(x) - y) ** 2).mean().backward()
    ```
    """
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    model.zero_grad()
    for inputs, targets in micro_batches:
        loss = (model(inputs) - targets).square().sum() / rows
        loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


@accumulate_uneven.wrong(
    "It averages the means: each micro-batch gets the same weight, so a row of a small one counts more than a row of a "
    "large one. Sum over the rows and divide once, by all rows."
)
def mean_of_means(model, micro_batches):
    for inputs, targets in micro_batches:
        ((model(inputs) - targets).square().mean() / len(micro_batches)).backward()
    return gradients(model)


@accumulate_uneven.wrong(
    "It adds up the means and never divides: the gradient grows with the number of micro-batches, as if the learning "
    "rate did."
)
def sum_of_means(model, micro_batches):
    for inputs, targets in micro_batches:
        (model(inputs) - targets).square().mean().backward()
    return gradients(model)


@accumulate_uneven.wrong(
    "It takes the sum over the rows and divides by the number of micro-batches. The sum runs over rows: divide by rows."
)
def sum_over_number_of_micro_batches(model, micro_batches):
    add_gradients(model, micro_batches, len(micro_batches))
    return gradients(model)


@accumulate_uneven.wrong(
    "It takes the size of the first micro-batch for the size of all. The last one of an epoch is usually smaller."
)
def size_of_the_first(model, micro_batches):
    add_gradients(model, micro_batches, len(micro_batches) * len(micro_batches[0][0]))
    return gradients(model)


@accumulate_uneven.wrong(
    "It clears the gradients inside the loop. Only the last micro-batch is left in `.grad`; the others ran for nothing."
)
def clears_inside_the_loop(model, micro_batches):
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    for micro_batch in micro_batches:
        model.zero_grad()
        add_gradients(model, [micro_batch], rows)
    return gradients(model)


@accumulate_uneven.wrong(
    "It adds up the losses and calls backward once, at the end. The gradient is right, and until then every "
    "micro-batch's graph is alive: the memory of the large batch. Call backward for each."
)
def one_backward_at_the_end(model, micro_batches):
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    sum((model(inputs) - targets).square().sum() for inputs, targets in micro_batches).div(rows).backward()
    return gradients(model)


@accumulate_uneven.wrong("It puts the large batch together again. That is the batch that did not fit.")
def concatenates(model, micro_batches):
    inputs, targets = (torch.cat(parts) for parts in zip(*micro_batches))
    (model(inputs) - targets).square().mean().backward()
    return gradients(model)


@accumulate_uneven.also_right
def divides_at_the_end(model, micro_batches):
    add_gradients(model, micro_batches, 1)
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    return {name: gradient / rows for name, gradient in gradients(model).items()}


@accumulate_uneven.also_right
def weights_the_means(model, micro_batches):
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    for inputs, targets in micro_batches:
        ((model(inputs) - targets).square().mean() * len(inputs) / rows).backward()
    return gradients(model)


@accumulate_uneven.also_right
def without_the_grad_field(model, micro_batches):
    rows = sum(len(inputs) for inputs, _ in micro_batches)
    names, parameters = zip(*model.named_parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for inputs, targets in micro_batches:
        loss = (model(inputs) - targets).square().sum() / rows
        for held, gradient in zip(total, torch.autograd.grad(loss, parameters)):
            held += gradient  # noqa: PLW2901  # in place
    return dict(zip(names, total))
