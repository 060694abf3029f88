"""Two processes, one large batch."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from blackbelt.dojo.kata import kata
from blackbelt.dojo.laws.collectives import Collectives
from blackbelt.dojo.laws.value import Value
from blackbelt.katas.autograd.accumulation._shared import ROUNDINGS, add_gradients, gradients, linear, regression


def _ranks(first: list[int], second: list[int], seed: int = 0) -> tuple[tuple[Any, ...], ...]:
    """Return the arguments of two ranks: the same model, and micro-batches of those sizes."""
    return tuple((linear(), regression(sizes, seed=seed + 50 * rank)) for rank, sizes in enumerate((first, second)))


@kata(
    minutes=30,
    belt="brown",
    hints=(
        "DDP returns the *mean* over ranks of what each has computed. Of what must that be the mean?",
        (
            "Every rank needs the number of rows of all ranks: `dist.all_reduce` of a tensor that holds its own. And "
            "all micro-batches but the last run inside `ddp.no_sync()`, forward and backward."
        ),
        (
            "loss = sum of squared errors · world size / rows of all ranks. DDP divides by the world size again. "
            "`with ddp.no_sync() if not last else contextlib.nullcontext():`"
        ),
    ),
    cases=st.tuples(st.integers(1, 3), st.integers(0, 3)).map(
        lambda drawn: _ranks([1, 2, 3][: drawn[0]], [3, 1, 2][: drawn[0]], seed=drawn[1])
    ),
    edge_cases=lambda: {
        "one micro-batch each, even": _ranks([2], [2]),
        "two each, even": _ranks([2, 2], [2, 2]),
        "uneven within each": _ranks([1, 3], [1, 3]),
        "uneven between them": _ranks([1, 1], [3, 3]),
        "three each": _ranks([1, 2, 1], [3, 2, 2]),
    },
    laws=[Value(roundings=ROUNDINGS), Collectives(lambda *_: {"c10d::allreduce_": 2})],
    changes=(0,),
    ranks=2,
)
def accumulate_over_ranks(
    model: torch.nn.Module, micro_batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Two processes, one large batch.

    This function runs in two processes at once; `torch.distributed` is initialized. Both hold the same `model`; each
    has micro-batches `(inputs, targets)` of its own: as many as the other, of other sizes. Wrap the model in
    `DistributedDataParallel`. Return on both ranks, by the model's own parameter names, the gradient of the mean
    squared error over **all rows of both ranks**. Issue two all-reduces in all: one of the number of rows, and one of
    the gradients, with the last micro-batch.

    ```python
    accumulate_over_ranks(model, [(x[:1], y[:1]), (x[1:], y[1:])])  # on each rank, with its own x and y
    ```
    """
    rows = torch.tensor(float(sum(len(inputs) for inputs, _ in micro_batches)))
    dist.all_reduce(rows)
    ddp = DistributedDataParallel(model)
    for number, (inputs, targets) in enumerate(micro_batches, 1):
        with contextlib.nullcontext() if number == len(micro_batches) else ddp.no_sync():
            loss = (ddp(inputs) - targets).square().sum()
            (loss * dist.get_world_size() / rows.item()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


def _all_rows(micro_batches):
    rows = torch.tensor(float(sum(len(inputs) for inputs, _ in micro_batches)))
    dist.all_reduce(rows)
    return rows.item()


def _add(ddp, micro_batches, rows):
    """Accumulate sums divided by ``rows``, all but the last without synchronization."""
    with ddp.no_sync():
        add_gradients(ddp, micro_batches[:-1], rows)
    add_gradients(ddp, micro_batches[-1:], rows)


@accumulate_over_ranks.wrong(
    "It synchronizes at every micro-batch. The gradient is right and everything waits for the network each time. "
    "`no_sync()` must hold the forward as well: there DDP decides whether this backward will communicate."
)
def synchronizes_every_time(model, micro_batches):
    rows = _all_rows(micro_batches)
    add_gradients(DistributedDataParallel(model), micro_batches, rows / 2)
    return gradients(model)


@accumulate_over_ranks.wrong(
    "It divides by this rank's own rows. DDP then takes the mean of two means, and a row on the rank with fewer rows "
    "counts more. Divide by the rows of all ranks."
)
def divides_by_own_rows(model, micro_batches):
    _all_rows(micro_batches)
    _add(DistributedDataParallel(model), micro_batches, sum(len(inputs) for inputs, _ in micro_batches))
    return gradients(model)


@accumulate_over_ranks.wrong(
    "It divides by the rows of all ranks, and DDP divides by the number of ranks once more: the gradient is half as "
    "long. Multiply the loss by the world size."
)
def divided_twice(model, micro_batches):
    _add(DistributedDataParallel(model), micro_batches, _all_rows(micro_batches))
    return gradients(model)


@accumulate_over_ranks.wrong(
    "Nothing is ever exchanged: every micro-batch runs under `no_sync()`, or calls `model` where the wrapped one was "
    "meant. Each rank goes on with its own gradient, and the two models drift apart without an error."
)
def never_synchronizes(model, micro_batches):
    rows, ddp = _all_rows(micro_batches), DistributedDataParallel(model)
    with ddp.no_sync():
        add_gradients(ddp, micro_batches, rows / 2)
    return gradients(model)


@accumulate_over_ranks.wrong(
    "It runs all forwards first. The first backward sends and DDP is done; for the others no forward has come since, "
    "so they stay at home, and nothing is raised. Backward belongs right behind its forward."
)
def forwards_first(model, micro_batches):
    rows, ddp = _all_rows(micro_batches), DistributedDataParallel(model)
    for loss in [(ddp(inputs) - targets).square().sum() / (rows / 2) for inputs, targets in micro_batches]:
        loss.backward()
    return gradients(model)


@accumulate_over_ranks.wrong(
    "It averages the micro-batches' means. They differ in rows, within a rank and between the two: divide sums by all "
    "rows."
)
def mean_of_means(model, micro_batches):
    _all_rows(micro_batches)
    ddp, number = DistributedDataParallel(model), len(micro_batches)
    for index, (inputs, targets) in enumerate(micro_batches, 1):
        with contextlib.nullcontext() if index == number else ddp.no_sync():
            ((ddp(inputs) - targets).square().mean() / number).backward()
    return gradients(model)


@accumulate_over_ranks.wrong(
    "It all-reduces every parameter by itself. A model of three hundred tensors sends three hundred messages; DDP "
    "packs them into buckets."
)
def one_message_per_parameter(model, micro_batches):
    add_gradients(model, micro_batches, _all_rows(micro_batches))
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    return gradients(model)


@accumulate_over_ranks.wrong(
    "It never talks to the other rank: that is the gradient of one half of the batch. Nothing tells you; the losses "
    "look fine."
)
def stays_alone(model, micro_batches):
    add_gradients(model, micro_batches, sum(len(inputs) for inputs, _ in micro_batches))
    return gradients(model)


@accumulate_over_ranks.also_right
def scales_at_the_end(model, micro_batches):
    _add(DistributedDataParallel(model), micro_batches, 1)
    rows = _all_rows(micro_batches)
    return {name: gradient * (dist.get_world_size() / rows) for name, gradient in gradients(model).items()}


@accumulate_over_ranks.also_right
def one_flat_message(model, micro_batches):
    add_gradients(model, micro_batches, 1)
    flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    dist.all_reduce(flat)
    rows = _all_rows(micro_batches)
    parts = flat.split([parameter.numel() for parameter in model.parameters()])
    named = zip(model.named_parameters(), parts)
    return {name: part.view_as(parameter) / rows for (name, parameter), part in named}
